"""What segments mean at present, and what follows when one comes to mean another thing.

The meaning of a rule hangs on more than its own words: on those of segments it
speaks of, and on what attributes, fields, event types, sources and mailing categories
are declared to be. A hash of all that is the segment's fingerprint. Where it is another
one, the segment begins a new edition, whose members are counted anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction

from segments import rules
from segments.dictionary import Dictionary, choices_in
from segments.looks import Looks, looks_of
from segments.models import Counted, Dependency, Due, Membership, Segment
from segments.rules import RuleConflict
from smartcomm.core.errors import UserError

logger = structlog.get_logger(__name__)

ENTERED = "segment.entered"
LEFT = "segment.left"
#: After a failure it is tried again so much later, and twice as late each time.
FIRST_RETRY = timedelta(minutes=1)
LAST_RETRY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Meaning:
    """A segment's rule with all its names looked up."""

    rule: rules.Rule
    dictionary: Dictionary
    looks: Looks
    fingerprint: str


def meaning_of(segment: Segment) -> Meaning:
    """Look the rule's names up. Raises UserError where it makes no sense (any more).

    A handful of queries.
    """
    rule = rules.parse(segment.rule)
    known = Dictionary.of(rule)
    if segment.is_watched:
        refuse_feeding(rule, known)
    return Meaning(rule, known, looks_of(rule, known), _fingerprint(rule, known))


def refuse_feeding(rule: rules.Rule, known: Dictionary) -> None:
    """Raise RuleConflict if a rule looks at who enters and leaves segments.

    For segments that record these very events: nothing shall feed itself.
    """
    for one in _rules_in(rule, known):
        for choice in choices_in(one):
            if choice.event in (ENTERED, LEFT):
                raise RuleConflict(
                    f"A segment that records “{ENTERED}” and “{LEFT}” cannot look at "
                    f"“{choice.event}”: it might feed itself. Switch off “record "
                    "events”, or take that condition out of the rule.",
                    field=f"{choice.at}.event" if choice.at else "event",
                )


class Meanings:
    """The meanings of all segments, looked up once and kept until one is another.

    `at` is `Upkeep.meanings`, which goes up when anything was declared otherwise.
    """

    def __init__(self) -> None:
        self._at = -1
        self._known: dict[tuple[int, int, str], Meaning] = {}

    def forget(self) -> None:
        self._at, self._known = -1, {}

    def of(self, segment: Segment, *, at: int) -> Meaning:
        """The meaning of the segment's present edition. Raises UserError."""
        if at != self._at:
            self._at, self._known = at, {}
        key = (segment.pk, segment.edition, segment.fingerprint)
        if key not in self._known:
            self._known[key] = meaning_of(segment)
        return self._known[key]


def refresh(*, now: datetime) -> None:
    """See what every segment means by now; begin new editions where it has changed."""
    for segment in Segment.objects.order_by("pk").iterator(chunk_size=200):
        refresh_one(segment, now=now)


def refresh_one(segment: Segment, *, now: datetime) -> None:
    """The same for one segment."""
    if segment.is_static:
        _settle_list(segment, now=now)
        return
    if segment.is_archived:
        _put_away(segment)
        return
    try:
        meaning = meaning_of(segment)
    except UserError as error:
        # Known already: it keeps the time at which it is tried again.
        due = segment.retry_at is None or segment.retry_at <= now
        if due or segment.fingerprint or segment.error != error.message:
            fail(segment, error.message, now=now, fingerprint="")
            Dependency.objects.filter(segment=segment).delete()
        return
    if meaning.fingerprint != segment.fingerprint:
        begin_edition(segment, meaning, now=now)


def begin_edition(segment: Segment, meaning: Meaning, *, now: datetime) -> None:
    """Have the segment counted by what it means now. Till then the members stay."""
    with transaction.atomic():
        as_it_was = Segment.objects.filter(pk=segment.pk, edition=segment.edition)
        begun = as_it_was.update(
            edition=segment.edition + 1,
            fingerprint=meaning.fingerprint,
            status=Segment.Status.COMPUTING
            if segment.members_of
            else Segment.Status.NEW,
            error="",
            failed_at=None,
            failures=0,
            retry_at=None,
            recount_wanted_at=now,
            check_wanted=False,
            looked_until=None,
            turns_at=meaning.looks.next_turn(now),
            **NO_RECOUNT,
        )
        if not begun:
            return  # Somebody else was faster.
        Counted.objects.filter(segment=segment).delete()
        Dependency.objects.filter(segment=segment).delete()
        Dependency.objects.bulk_create(
            [
                Dependency(segment=segment, kind=kind, name=name)
                for kind, names in [
                    (Dependency.Kind.EVENT, map(str, meaning.looks.events)),
                    (Dependency.Kind.CUSTOMER, meaning.looks.customer),
                ]
                for name in sorted(names)
            ]
        )
    segment.refresh_from_db()


#: The columns of a count under way, when there is none.
NO_RECOUNT: dict[str, Any] = {
    "recount_edition": None,
    "recount_is_check": False,
    "recount_began_at": None,
    "recount_after": None,
    "recounted_upto": None,
    "recount_end": None,
    "recount_waits_for": [],
    "recount_events": None,
    "recount_changes": None,
    "recount_ms": 0,
}


def fail(segment: Segment, message: str, *, now: datetime, **more: Any) -> None:
    """Keep why the segment cannot be kept, and try again later, ever more rarely.

    The last good members stay, as they are: so only a count of all helps.
    """
    pause = min(FIRST_RETRY * 2 ** min(segment.failures, 10), LAST_RETRY)
    failed = Segment.objects.filter(pk=segment.pk, edition=segment.edition).update(
        status=Segment.Status.FAILED,
        error=message,
        failed_at=now,
        failures=min(segment.failures + 1, 100),
        retry_at=now + pause,
        recount_wanted_at=now,
        check_wanted=False,
        looked_until=None,
        **NO_RECOUNT,
        **more,
    )
    if failed:
        Counted.objects.filter(segment=segment).delete()
        logger.warning("segments.failed", segment=segment.pk, error=message)


def _settle_list(segment: Segment, *, now: datetime) -> None:
    if segment.count is None:
        found = Membership.objects.filter(segment=segment).count()
        Segment.objects.filter(pk=segment.pk).update(
            status=Segment.Status.FRESH, count=found, counted_at=now
        )


def _put_away(segment: Segment) -> None:
    """Look after an archived segment no more; when it comes back it is counted anew."""
    if segment.fingerprint or segment.looked_until:
        Segment.objects.filter(pk=segment.pk).update(
            fingerprint="",
            looked_until=None,
            turns_at=None,
            recount_wanted_at=None,
            **NO_RECOUNT,
        )
        for model in (Dependency, Counted, Due):
            model._default_manager.filter(segment=segment).delete()


def _rules_in(rule: rules.Rule, known: Dictionary) -> Iterator[rules.Rule]:
    """The rule, and those of segments that it speaks of."""
    yield rule
    for saved in known.segments.values():
        if saved.rule is not None:
            yield saved.rule


def _fingerprint(rule: rules.Rule, known: Dictionary) -> str:
    used = {
        (known.types[choice.event].pk, line.field)
        for one in _rules_in(rule, known)
        for choice in choices_in(one)
        for line in choice.where
    }
    told = [
        rules.to_json(rule),
        sorted(
            (pk, None if saved.rule is None else rules.to_json(saved.rule))
            for pk, saved in known.segments.items()
        ),
        sorted((name, one.pk, one.kind) for name, one in known.types.items()),
        sorted((*key, known.fields.get(key, "")) for key in used),
        sorted(known.attributes.items()),
        sorted(known.sources.items()),
        sorted(
            (code, one.pk, sorted(one.default_channels))
            for code, one in known.categories.items()
        ),
        sorted(known.campaigns),
        sorted(known.defaults.items()),
    ]
    text = json.dumps(told, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
