"""Which segments an event would touch, for a dry run (see `events.sandbox`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from events.models import Kind
from events.sandbox import After, Coming, ConditionTried, SegmentTouched, Stored, Trial
from segments import rules
from segments.compile import compile_rule, customers_matching, event_fits
from segments.describe import describe
from segments.dictionary import Dictionary, choices_in
from segments.models import Segment
from segments.reading import read_only
from smartcomm.core.errors import UserError

#: So many segments are read to see whether they speak of the event, and so many asked.
MOST_READ = 2_000
MOST = 50


@dataclass(frozen=True, slots=True)
class Speaking:
    """A segment that speaks of such events, itself or by a segment that it asks for."""

    pk: int
    name: str
    rule: rules.Rule
    conditions: tuple[rules.Happened, ...]


def look(coming: Coming, trial: Trial) -> After:
    """Which segments speak of the event, and whether the customer is in them by now."""
    if coming.kind != Kind.CUSTOMER:
        return lambda stored: []
    every = trial.once("segments", _saved)
    if len(every) == MOST_READ:
        trial.note(f"Only the first {MOST_READ:,} segments by name were looked at.")
    found = _speaking(coming.name, every)
    if len(found) > MOST:
        trial.note(
            f"{len(found):,} segments speak of “{coming.name}”; the first {MOST} by "
            "name were asked."
        )
    found = found[:MOST]
    before = {
        one.pk: _members(one.rule, coming.customer_ids, trial)
        for one in found
        if coming.customer_ids
    }

    def after(stored: Stored) -> list[SegmentTouched]:
        return [
            _touched(one, stored, stored.customer_id in before.get(one.pk, ()), trial)
            for one in found
        ]

    return after


def _saved() -> dict[int, tuple[str, rules.Rule]]:
    """The segments by id, in the order of their names. One that is broken matches
    nobody, before and after, and is left out."""
    saved = {}
    rows = Segment.objects.order_by("name").values_list("pk", "name", "rule")
    for pk, name, data in rows[:MOST_READ]:
        try:
            saved[pk] = (name, rules.parse(data))
        except UserError:
            continue
    return saved


def _speaking(event: str, saved: dict[int, tuple[str, rules.Rule]]) -> list[Speaking]:
    own = {
        pk: [
            part
            for part in rules.walk(rule)
            if isinstance(part, rules.Happened)
            and any(choice.event == event for choice in choices_in(part))
        ]
        for pk, (_, rule) in saved.items()
    }

    def conditions(pk: int, seen: set[int]) -> Iterable[rules.Happened]:
        if pk in seen or pk not in saved:
            return
        seen.add(pk)
        yield from own[pk]
        for part in rules.walk(saved[pk][1]):
            if isinstance(part, rules.InSegment):
                yield from conditions(part.segment, seen)

    found = []
    for pk, (name, rule) in saved.items():
        # The same condition may stand in several places.
        if spoken := tuple(dict.fromkeys(conditions(pk, set()))):
            found.append(Speaking(pk, name, rule, spoken))
    return found


def _members(rule: rules.Rule, customer_ids: Sequence[int], trial: Trial) -> set[int]:
    """Who of these meets the rule: the same query as everywhere."""
    try:
        query = compile_rule(rule, now=trial.now, restrict=customer_ids)
    except UserError:
        return set()
    with read_only(trial.left_ms()):
        return customers_matching(query)


def _touched(
    segment: Speaking, stored: Stored, before: bool, trial: Trial
) -> SegmentTouched:
    told = SegmentTouched(segment.pk, segment.name, before, after=False, conditions=[])
    try:
        known = Dictionary.of(segment.rule)
        query = compile_rule(
            segment.rule,
            now=trial.now,
            restrict=[stored.customer_id or 0],
            dictionary=known,
        )
    except UserError as error:
        told.problem = error.message
        return told
    with read_only(trial.left_ms()):
        told.after = stored.customer_id in customers_matching(query)
        told.conditions = [
            ConditionTried(
                sentence=describe(condition),
                fits=any(
                    event_fits(one, stored.pk, now=trial.now, dictionary=known)
                    for one in _roles(condition)
                ),
            )
            for condition in segment.conditions
        ]
    return told


def _roles(condition: rules.Happened) -> Iterator[rules.Happened]:
    """What an event may be in a condition: one of those that are counted, the one since
    which they are, or another beside them."""
    for choice in choices_in(condition):
        if isinstance(choice, rules.Happened):
            yield choice
        else:
            yield rules.Happened(choice.event, choice.where, source=choice.source)
