"""Keeping the members of segments true: after each change, as time passes, each night.

For pages, the API and whoever saves a segment:

- `rule_saved` after a segment was saved, in the same transaction;
- `hold_keeper` before a segment is deleted, in the same transaction;
- `recount_wanted` to have all counted anew, as the button does;
- `state` for how well the members are known; `with_state` for a list of segments.

The design is in docs/decisions/0013-upkeep-of-members.md.
"""

from segments.upkeep.saving import (
    KEEP,
    hold_keeper,
    recount_wanted,
    refuse_feeding,
    rule_saved,
)
from segments.upkeep.states import State, stale_since, state, with_state

__all__ = [
    "KEEP",
    "State",
    "hold_keeper",
    "recount_wanted",
    "refuse_feeding",
    "rule_saved",
    "stale_since",
    "state",
    "with_state",
]
