"""What whoever saves a segment calls."""

from __future__ import annotations

from django.db.models import F
from django.db.models.functions import Coalesce, Now

from segments import rules
from segments.dictionary import Dictionary
from segments.models import Segment, Upkeep
from segments.upkeep import meanings
from smartcomm.core import doorbell
from smartcomm.core.clock import database_now

#: The task that keeps the members.
KEEP = "segments.tasks.keep"


def rule_saved(segment: Segment) -> None:
    """Have a segment that was just saved looked at. Call in the same transaction.

    Where its rule means another thing than before, a new edition begins: all are
    counted anew, for it and for the segments that speak of it, and until then the last
    members stay. `segment` is as stored then. Raises RuleError if it makes no sense;
    so undo what was saved. Saved without this call, all of it happens a little later.
    """
    segment.refresh_from_db()
    if not segment.is_static and not segment.is_archived:
        meaning = meanings.meaning_of(segment)
        if meaning.fingerprint != segment.fingerprint:
            meanings.begin_edition(segment, meaning, now=database_now())
    doorbell.ring(KEEP)


def recount_wanted(segment: Segment) -> None:
    """Have everybody asked anew, as soon as a worker can: the button “Recount now”.

    Where the members are thought to be right it is a check, whose result is
    `Segment.repaired`.
    """
    found = Segment.objects.filter(
        pk=segment.pk, kind=Segment.Kind.DYNAMIC, archived_at=None
    )
    # Whatever else it is awaited for stays the reason.
    found.filter(recount_wanted_at=None).update(check_wanted=True)
    found.update(
        recount_wanted_at=Coalesce(F("recount_wanted_at"), Now()), retry_at=None
    )
    doorbell.ring(KEEP)


def hold_keeper() -> None:
    """Let nobody keep members until this transaction ends; waits for who is at it.

    For whoever takes a segment away: what the keeper would write meanwhile belongs to
    nothing. Call before anything else is locked.
    """
    Upkeep.objects.select_for_update().filter(id=1).first()


def refuse_feeding(segment: Segment) -> None:
    """Raise RuleConflict if a segment that records “segment.entered” and “segment.left”
    looks at these very events. For forms; `rule_saved` refuses it as well."""
    if segment.is_watched and not segment.is_static:
        rule = rules.parse(segment.rule)
        meanings.refuse_feeding(rule, Dictionary.of(rule))
