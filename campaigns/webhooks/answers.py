"""What systems outside have answered in a run: `$answers.STEP.field` in rules and
values, `{{ client.answers.STEP.field }}` in texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from campaigns.models import WebhookCall
from segments.rules import FIELD_PATH
from smartcomm.core import strict_json
from smartcomm.core.errors import UserError

MAX_DEPTH = 30
#: Fields are offered that the newest so many calls were answered with.
SEEN_AMONG = 10_000


def of_runs(customers: Mapping[int, int]) -> dict[int, dict[str, Any]]:
    """Run → step → answer. `customers`: whose each run is. One query."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    if customers:
        calls = WebhookCall.objects.filter(
            run__in=list(customers),
            customer__in=set(customers.values()),
            answer__isnull=False,
        )
        for run_id, step, answer in calls.values_list("run", "step__key", "answer"):
            found[run_id][step] = answer
    return found


def fields_seen(
    campaign_id: int | None, steps: Collection[str]
) -> dict[str, list[str]]:
    """Step → the paths of the values that it was lately answered with."""
    found: dict[str, dict[str, None]] = {step: {} for step in steps}
    newest = WebhookCall.objects.order_by("-pk").values_list("pk", flat=True).first()
    if not steps or newest is None:
        return {step: [] for step in steps}
    calls = WebhookCall.objects.filter(
        pk__gt=newest - SEEN_AMONG,
        campaign=campaign_id,
        step__key__in=steps,
        answer__isnull=False,
    ).order_by("-pk")
    for step, answer in calls.values_list("step__key", "answer")[:100]:
        found[step].update(dict.fromkeys(_paths(answer)))
    return {step: sorted(paths) for step, paths in found.items()}


def _paths(value: Any, at: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _paths(one, f"{at}.{name}" if at else name)
    elif at and not isinstance(value, list) and FIELD_PATH.match(at):
        yield at


def read(body: bytes) -> Any:
    """The JSON of an answer, or None where it is none, or none that can be kept."""
    try:
        value = strict_json.decode(body)
    except (UserError, RecursionError):
        return None
    try:
        return _storable(value, MAX_DEPTH)
    except ValueError:
        return None


def _storable(value: Any, depth: int) -> Any:
    """Without what PostgreSQL has no room for. Raises ValueError."""
    match value:
        case str():
            value.encode()  # Half a surrogate pair cannot.
            return value.replace("\x00", "")
        case dict() | list() if not depth:
            raise ValueError
        case dict():
            return {
                _storable(name, depth): _storable(one, depth - 1)
                for name, one in value.items()
            }
        case list():
            return [_storable(one, depth - 1) for one in value]
    return value
