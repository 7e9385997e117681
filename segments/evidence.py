"""What a condition looked at, for one customer: values, how often, and which events.

Read with the compiler's own conditions, so that what is shown is what was counted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Annotated, Any

import msgspec
from django.db.models import prefetch_related_objects

from customers.models import Consent, Customer
from events.models import Event
from segments import moments, rules
from segments.comparisons import DERIVED
from segments.compile import chosen_events, chosen_messages, others_beside
from segments.dictionary import COLUMNS, Dictionary
from segments.models import Membership, Segment
from segments.sql import Sql, join, sql
from smartcomm.core.db import batches, fetch_all

Meta = msgspec.Meta

#: So many events are shown for a condition.
SHOWN = 5
#: No customer has so many events.
MOST = 2**31 - 1
#: So many conditions are read with one statement.
AT_ONCE = 25


class Other(msgspec.Struct, frozen=True):
    """The other event that one has beside it."""

    pk: int
    id: str
    name: str
    source: str
    occurred_at: datetime
    context: dict[str, Any]


class Happening(msgspec.Struct, frozen=True):
    """An event that a condition looked at, or a message."""

    pk: int
    id: Annotated[str, Meta(description="The one its sender chose.")]
    name: str
    source: str
    occurred_at: datetime
    context: dict[str, Any]
    others: Annotated[
        tuple[Other, ...], Meta(description="The events beside it that were asked for.")
    ] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """The events or messages that a condition chose, and what it chose them from."""

    count: int = 0
    first: datetime | None = None
    last: datetime | None = None
    #: The ids of a few: the newest, or the oldest where the first is asked about.
    shown: tuple[int, ...] = ()
    #: When the event happened that must leave the period for few enough to be left.
    leaving: datetime | None = None
    #: All events of that name.
    ever: int = 0
    ever_last: datetime | None = None
    #: Those that meet all but what is asked of events beside them.
    eligible: int = 0
    left_out: tuple[int, ...] = ()

    @property
    def left_out_count(self) -> int:
        """How many are not chosen for what is beside them, or is not."""
        return max(self.eligible - self.count, 0)


@dataclass
class Findings:
    """All that was found about one leaf."""

    value: Any = None
    tally: Tally | None = None
    events: tuple[Happening, ...] = ()
    left_out: tuple[Happening, ...] = ()
    since: Happening | None = None
    consent: Consent | None = None
    #: Reachability in words, and what would have to change.
    sentence: str = ""
    change: str = ""
    is_list: bool = False
    member_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class MessageShown:
    """A message for the eye: its subject or first words, and its campaign."""

    title: str
    campaign: str
    #: How far it came → when.
    moments: Mapping[str, datetime]


#: A leaf of a rule, and how many of its events may be left, if that is worth telling.
Leaf = tuple[rules.Rule, int | None]

#: The messages with these ids. One query or two.
Messages = Callable[[Collection[int]], Mapping[int, MessageShown]]

#: Why a customer can be reached on a channel (in a category) or not, and what would
#: have to change: two sentences.
Reach = Callable[[Customer, str, str, datetime], tuple[str, str]]

_reach: list[Reach] = []
_messages: list[Messages] = []


def introduce(reach: Reach, messages: Messages) -> None:
    """Say who knows how a customer can be reached, and what messages say: an app above
    does."""
    _reach[:] = [reach]
    _messages[:] = [messages]


def find(
    leaves: Sequence[Leaf],
    customer: Customer,
    *,
    segments: Mapping[int, Segment],
    now: datetime,
    dictionary: Dictionary,
) -> list[Findings]:
    """What there is to be said about each leaf of a rule.

    A leaf comes with how many events may be left, where it is worth telling when
    there will be so few. Costs a few queries, however many leaves there are.
    """
    found = [Findings() for _ in leaves]
    for (rule, _), one in zip(leaves, found, strict=True):
        if isinstance(rule, rules.Attribute):
            one.value = _value(customer, rule.attribute, dictionary, now)
    _Looker(customer, now, dictionary).find(leaves, found)
    _find_consents(leaves, found, customer, now)
    _find_memberships(leaves, found, customer, segments)
    return found


def _value(
    customer: Customer, attribute: str, dictionary: Dictionary, now: datetime
) -> Any:
    if attribute in COLUMNS:
        return getattr(customer, attribute)
    if attribute in DERIVED and attribute not in dictionary.attributes:
        return _years(getattr(customer, DERIVED[attribute].day.name), now)
    return customer.attributes.get(attribute)


def _years(born: date | None, now: datetime) -> int | None:
    """Whole years up to today, as the compiler counts them."""
    if born is None:
        return None
    today = moments.today(now)
    years = today.year - born.year
    latest = moments.latest_birth(today, years)
    if latest is None or latest < born:
        years -= 1
    return years if years >= 0 else None


# Events and messages

# What a condition chose, in one row.
TALLY = """
    (WITH chosen AS ({}), eligible AS ({}), ever AS ({})
     SELECT {}::int, chosen.*, ever.*, eligible.* FROM (
         SELECT count(*), min(moment), max(moment),
                (array_agg(id ORDER BY moment {}, id {}))[1:{}],
                (array_agg(moment ORDER BY moment DESC))[{}]
         FROM chosen
     ) AS chosen, (
         SELECT count(*), max(moment) FROM ever
     ) AS ever, (
         SELECT count(*), (
             array_agg(id ORDER BY moment DESC, id DESC)
             FILTER (WHERE id NOT IN (SELECT id FROM chosen))
         )[1:{}] FROM eligible
     ) AS eligible)
"""
NOTHING = Sql("SELECT NULL::bigint AS id, NULL::timestamptz AS moment WHERE FALSE")


@dataclass
class _Looker:
    """Reads events and messages of one customer."""

    customer: Customer
    now: datetime
    dictionary: Dictionary

    def find(self, leaves: Sequence[Leaf], found: list[Findings]) -> None:
        counted = [
            (i, rule, most)
            for i, (rule, most) in enumerate(leaves)
            if isinstance(rule, rules.Happened | rules.Messaged)
        ]
        for part in batches(counted, AT_ONCE):
            query = join(" UNION ALL ", [self._tally(*one) for one in part])
            for i, *row in fetch_all(query.text, query.params):
                found[i].tally = _tally(*row)
        self._find_since(leaves, found)
        self._show_events(leaves, found)
        self._show_messages(leaves, found)

    def _tally(
        self, number: int, rule: rules.Happened | rules.Messaged, most: int | None
    ) -> Sql:
        eligible = ever = NOTHING
        if isinstance(rule, rules.Messaged):
            chosen = self._messages(rule)
        else:
            chosen = self._events(rule)
            ever = self._events(rules.Happened(rule.event))
            if rule.beside:
                eligible = self._events(replace(rule, beside=()))
        # An index beyond the last is NULL.
        nth = MOST if most is None else most + 1
        order = Sql("ASC" if oldest_first(rule) else "DESC")
        return sql(
            TALLY, chosen, eligible, ever, number, order, order, SHOWN, nth, SHOWN
        )

    def _events(self, rule: rules.Happened) -> Sql:
        query = chosen_events(
            rule, now=self.now, dictionary=self.dictionary, restrict=[self.customer.pk]
        )
        return Sql(query.sql, query.params)

    def _messages(self, rule: rules.Messaged) -> Sql:
        query = chosen_messages(rule, now=self.now, restrict=[self.customer.pk])
        return Sql(query.sql, query.params)

    def _find_since(self, leaves: Sequence[Leaf], found: list[Findings]) -> None:
        """The event with which a period begins: the last that is so chosen."""
        begun = {
            i: rule.period
            for i, (rule, _) in enumerate(leaves)
            if isinstance(rule, rules.Happened) and isinstance(rule.period, rules.Since)
        }
        begins: dict[int, int] = {}
        for part in batches(begun.items(), AT_ONCE):
            queries = [
                sql(
                    "(SELECT {}::int, id FROM ({}) AS begun "
                    "ORDER BY moment DESC, id DESC LIMIT 1)",
                    i,
                    self._events(
                        rules.Happened(since.event, since.where, source=since.source)
                    ),
                )
                for i, since in part
            ]
            query = join(" UNION ALL ", queries)
            begins |= dict(fetch_all(query.text, query.params))
        events = happenings(list(begins.values()))
        for i, pk in begins.items():
            found[i].since = events.get(pk)

    def _show_events(self, leaves: Sequence[Leaf], found: list[Findings]) -> None:
        asked = [
            (rule, one, one.tally)
            for (rule, _), one in zip(leaves, found, strict=True)
            if isinstance(rule, rules.Happened) and one.tally is not None
        ]
        beside = [
            [pair for other in rule.beside for pair in self._others(rule, other, tally)]
            for rule, _, tally in asked
        ]
        events = happenings(
            {pk for _, _, tally in asked for pk in (*tally.shown, *tally.left_out)}
            | {pk for pairs in beside for _, pk in pairs}
        )
        for (_, one, tally), pairs in zip(asked, beside, strict=True):
            for name, pks in (("events", tally.shown), ("left_out", tally.left_out)):
                shown = tuple(
                    _with_others(events[pk], [events[o] for e, o in pairs if e == pk])
                    for pk in pks
                    if pk in events
                )
                setattr(one, name, shown)

    def _others(
        self, rule: rules.Happened, other: rules.Beside, tally: Tally
    ) -> list[tuple[int, int]]:
        shown = [*tally.shown, *tally.left_out]
        if not shown:
            return []
        query = others_beside(
            rule,
            other,
            shown,
            dictionary=self.dictionary,
            now=self.now,
            restrict=[self.customer.pk],
        )
        return [(row[0], row[1]) for row in fetch_all(query.sql, query.params)]

    def _show_messages(self, leaves: Sequence[Leaf], found: list[Findings]) -> None:
        asked = [
            (rule, found[i], found[i].tally or Tally())
            for i, (rule, _) in enumerate(leaves)
            if isinstance(rule, rules.Messaged)
        ]
        if not asked or not _messages:
            return
        shown = _messages[0]({pk for _, _, tally in asked for pk in tally.shown})
        for rule, one, tally in asked:
            one.events = tuple(
                Happening(
                    pk=pk,
                    id=str(pk),
                    name=message.title,
                    source=message.campaign,
                    occurred_at=message.moments[rule.stage],
                    context={},
                )
                for pk, message in ((pk, shown.get(pk)) for pk in tally.shown)
                if message is not None
            )


def oldest_first(rule: rules.Rule) -> bool:
    """Where the first of them is asked about, the oldest events are shown."""
    return isinstance(rule, rules.Happened | rules.Messaged) and isinstance(
        rule.question, rules.FirstDate | rules.DaysSinceFirst
    )


def _tally(
    count: int,
    first: datetime | None,
    last: datetime | None,
    shown: list[int] | None,
    leaving: datetime | None,
    ever: int,
    ever_last: datetime | None,
    eligible: int,
    left_out: list[int] | None,
) -> Tally:
    return Tally(
        count,
        first,
        last,
        tuple(shown or ()),
        leaving,
        ever,
        ever_last,
        eligible,
        tuple(left_out or ()),
    )


def happenings(ids: Collection[int]) -> Mapping[int, Happening]:
    """The events with these ids. Costs one query."""
    if not ids:
        return {}
    rows = Event.objects.filter(pk__in=set(ids)).select_related("type", "source")
    return {
        row.pk: Happening(
            row.pk,
            row.external_id,
            row.type.name,
            row.source.name,
            row.occurred_at,
            row.context,
        )
        for row in rows
    }


def _with_others(event: Happening, others: Sequence[Happening]) -> Happening:
    return msgspec.structs.replace(
        event,
        others=tuple(
            Other(o.pk, o.id, o.name, o.source, o.occurred_at, o.context)
            for o in others
        ),
    )


# Consents and reachability


def _find_consents(
    leaves: Sequence[Leaf],
    found: list[Findings],
    customer: Customer,
    now: datetime,
) -> None:
    asked = [
        (rule, one)
        for (rule, _), one in zip(leaves, found, strict=True)
        if isinstance(rule, rules.ConsentIs | rules.Reachable)
    ]
    if not asked:
        return
    prefetch_related_objects([customer], "consents__category", "devices")
    given: dict[tuple[str, str], Consent] = {
        (consent.channel, consent.category.code if consent.category else ""): consent
        for consent in customer.consents.all()
    }
    told: dict[tuple[str, str], tuple[str, str]] = {}
    for rule, one in asked:
        key = (rule.channel, rule.category)
        if isinstance(rule, rules.ConsentIs):
            one.consent = given.get(key)
        elif _reach:
            if key not in told:
                told[key] = _reach[0](customer, *key, now)
            one.sentence, one.change = told[key]


# Segments


def _find_memberships(
    leaves: Sequence[Leaf],
    found: list[Findings],
    customer: Customer,
    segments: Mapping[int, Segment],
) -> None:
    asked = [
        (rule.segment, one)
        for (rule, _), one in zip(leaves, found, strict=True)
        if isinstance(rule, rules.InSegment)
    ]
    if not asked:
        return
    since = dict(
        Membership.objects.filter(
            customer_id=customer.pk, segment_id__in={pk for pk, _ in asked}
        ).values_list("segment_id", "since")
    )
    for pk, one in asked:
        one.is_list = pk in segments and segments[pk].is_static
        one.member_since = since.get(pk)
