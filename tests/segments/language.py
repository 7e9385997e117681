"""Every rule there is, and every kind of customer it may be about, at random.

For the tests that hold the compiler against another reading of the language. Dates and
times lie where answers change: on the edge of a period, when a month begins, in the
hour that occurs twice.
"""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from campaigns.models import Campaign
from customers.models import Attribute, Consent, Customer, Device, MailingCategory
from events import schema
from events.ingest import record_events
from events.models import EventField
from messaging.models import ChannelSettings, Content, Message, Suppression
from segments import rules
from segments.models import Membership, Segment
from segments.operators import OPERATORS, Takes, ValueType
from tests import make
from tests.segments.evaluator import Happening, Letter, Person, Phone, World

ZONE = "Europe/Berlin"
#: What makes a difference: days on which clocks change, and ends of months and years.
NOWS = [
    datetime(2026, 3, 30, 12, tzinfo=UTC),  # The day after Berlin lost an hour.
    datetime(2026, 3, 29, 1, 0, tzinfo=UTC),  # The hour is being lost.
    datetime(2026, 4, 29, 0, 30, tzinfo=UTC),  # A month ago, at 2:30, there was none.
    datetime(2026, 3, 31, 10, 15, 30, 123456, tzinfo=UTC),  # No 31 February.
    datetime(2026, 10, 25, 0, 30, tzinfo=UTC),  # 2:30, the first time.
    datetime(2026, 10, 25, 1, 30, tzinfo=UTC),  # 2:30, the second time.
    datetime(2026, 11, 25, 1, 30, tzinfo=UTC),  # A month ago it was 2:30 twice.
    datetime(2026, 12, 31, 23, 0, tzinfo=UTC),  # The year begins in Berlin.
    datetime(2028, 2, 28, 23, 30, tzinfo=UTC),  # 29 February there.
    datetime(2027, 2, 28, 9, 0, tzinfo=UTC),  # 29 February is kept today.
]
CITIES = ["Paris", "Berlin", "pa%ris", "P_ris", ""]
EVENTS = ["Viewed", "Paid"]
SOURCES = ["shop", "till", "web"]
FIELDS = ["name", "price", "gift", "day", "address.city", "lines", "product"]
SAME = ["product", "name", "address.city"]
CATEGORIES = ["news", "tips"]
CHANNELS = ["email", "sms", "push"]
TEXTS = ["Bag", "bag", "10", "10.5", "10.0", "1000", "a%b", "axb", "true", ""]
SCALARS = [*TEXTS, 10, 10.5, 0, -3, 1e3, True, False]
LISTS: list[Any] = [
    [],
    [10],
    ["10", "Bag"],
    ["bag", True, 10.5],
    [[10]],
    [None, "Bag"],
    [{"city": "Paris"}],
]
ATTRIBUTES = {
    "tier": ValueType.STRING,
    "points": ValueType.NUMBER,
    "vip": ValueType.BOOLEAN,
    "joined": ValueType.DATE,
    "tags": ValueType.LIST,
}
COLUMN_TYPES = {
    "city": ValueType.STRING,
    "email": ValueType.STRING,
    "birth_date": ValueType.DATE,
    "registered_at": ValueType.DATE,
    "age": ValueType.NUMBER,
}
#: What `$field_code` may stand for.
CONTEXT = {
    "product": 10,
    "name": "Bag",
    "tags": ["Bag", 10, [1]],
    "deep": {"city": "Paris", "day": "2026-03-29"},
    "thing": {"x": 1},
    "yes": True,
    "none": [],
}
EVENT_VALUES = [
    rules.EventValue(path)
    for path in [
        "product",
        "name",
        "tags",
        "deep.city",
        "deep.day",
        "thing",
        "yes",
        "none",
    ]
]


class Calendar:
    """Days and times around one now, at which answers change."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        zone = ZoneInfo(ZONE)
        today = now.astimezone(zone).date()
        self.today = today
        firsts = {
            today,
            today - timedelta(days=1),
            today - timedelta(days=today.weekday()),
            today - timedelta(days=today.weekday() + 7),
            today.replace(day=1),
            (today.replace(day=1) - timedelta(days=1)).replace(day=1),
            today.replace(month=1, day=1),
            today.replace(year=today.year - 1, month=1, day=1),
            date(today.year, (today.month - 1) // 3 * 3 + 1, 1),
            today + timedelta(days=1),
        }
        self.days = sorted(firsts)
        midnights = [
            datetime.combine(day, time.min, tzinfo=zone).astimezone(UTC)
            for day in self.days
        ]
        second = timedelta(seconds=1)
        exact = [now - timedelta(days=n) for n in (*range(12), 28, 29, 30, 31, 365)]
        exact += [now - timedelta(hours=n) for n in (1, 2, 23, 25, 48)]
        exact += [
            now.astimezone(zone)
            .replace(year=year, month=month, day=min(now.astimezone(zone).day, 28))
            .astimezone(UTC)
            for year in (today.year - 1, today.year)
            for month in range(1, 13)
            if (year, month) <= (today.year, today.month)
        ]
        self.instants = sorted(
            moment
            for at in [*midnights, *exact]
            for moment in (at - second, at, at + second)
            if moment <= now + timedelta(minutes=5)
        )

    def instant(self, dice: random.Random) -> datetime:
        """When something happened: often on an edge, sometimes just ahead of now."""
        roll = dice.random()
        if roll < 0.6:
            return dice.choice(self.instants)
        if roll < 0.7:
            return self.now + timedelta(seconds=dice.randrange(300))
        return self.now - timedelta(minutes=dice.randrange(60 * 24 * 60))

    def dates(self) -> list[str]:
        """What a rule, or an attribute, may say."""
        return [
            *(day.isoformat() for day in self.days),
            self.now.isoformat(),
            (self.now - timedelta(days=3)).isoformat(),
            (self.now - timedelta(days=1, seconds=1)).isoformat(),
            (self.now + timedelta(days=2)).isoformat(),
            (self.now - timedelta(days=40)).astimezone(ZoneInfo(ZONE)).isoformat(),
        ]

    def written_dates(self) -> list[str]:
        """Dates as sources send them, some of which are none."""
        return [
            *self.dates(),
            *(
                (self.now + timedelta(days=n)).isoformat()
                for n in (-3, -2, -1, 1, 2, 3)
            ),
            "2026-03-29T02:30:00",
            "2026-10-25T02:30:00",
            "2026-03-29 10:00",
            "2026-13-40",
            "2024-02-29",
            "2026-03",
        ]

    def births(self) -> list[date]:
        near = [self.today + timedelta(days=n) for n in (-2, -1, 0, 1, 2, 10, -400)]
        found = [date(1992, 2, 29), date(2024, 2, 29), date(1990, 2, 28), *near]
        for years in (1, 17, 18, 40):
            for day in near[:6]:
                if (day.month, day.day) != (2, 29):
                    found.append(day.replace(year=day.year - years))
        return found


def in_order(ends: tuple[Any, Any]) -> tuple[Any, Any]:
    """The same two ends, the low one first."""
    return ends[::-1] if rules.is_reversed(*ends) else ends


class Rules:
    """Strategies for the rules that speak of one calendar and of these segments."""

    def __init__(
        self, calendar: Calendar, segments: list[int], campaigns: list[int]
    ) -> None:
        self.dates = st.sampled_from(calendar.dates())
        self.two_dates = st.tuples(self.dates, self.dates).map(in_order)
        self.days = st.sampled_from([day.isoformat() for day in calendar.days])
        self.numbers = st.sampled_from([-3, 0, 1, 10, 10.5, 17.5, 18, 40])
        self.scalars = st.sampled_from([*SCALARS, *calendar.dates()[:3]])
        self.given = st.sampled_from(EVENT_VALUES)
        self.segments, self.campaigns = segments, campaigns

    def value(self, takes: Takes) -> st.SearchStrategy[Any]:
        pair = st.tuples(self.numbers, self.numbers).map(in_order) | self.two_dates
        return {
            Takes.NOTHING: st.none(),
            Takes.ONE: self.scalars | self.given,
            Takes.LIST: st.lists(self.scalars, min_size=1, max_size=3).map(tuple)
            | st.lists(self.scalars | self.given, min_size=1, max_size=30).map(tuple)
            | self.given,
            Takes.TEXT: st.sampled_from(["a", "A%", "_", "\\", "bag", "10"])
            | self.given,
            Takes.ORDERED: self.numbers | self.dates | self.given,
            Takes.PAIR: pair | st.tuples(self.given, self.dates | self.numbers),
            Takes.TIME: self.dates | self.given,
            Takes.DAY: self.days | self.given,
            Takes.DAYS: st.sampled_from([0, 1, 2, 3, 10, 31, 364, 365, 366, 40_000]),
        }[takes]

    def comparison(self, type_: ValueType | None = None) -> st.SearchStrategy[Any]:
        ops = [
            code for code, op in OPERATORS.items() if type_ is None or type_ in op.types
        ]
        return st.sampled_from(ops).flatmap(
            lambda op: st.tuples(st.just(op), self.value(OPERATORS[op].takes))
        )

    @property
    def attributes(self) -> st.SearchStrategy[rules.Rule]:
        known = [*ATTRIBUTES.items(), *COLUMN_TYPES.items()]
        return st.sampled_from(known).flatmap(
            lambda pair: self.comparison(pair[1]).map(
                lambda c: rules.Attribute(pair[0], *c)
            )
        )

    @property
    def questions(self) -> st.SearchStrategy[rules.Question]:
        compare = st.sampled_from([">=", "<=", "="])
        low, high = st.integers(0, 2), st.integers(2, 4)
        counts = st.tuples(compare, st.integers(0, 4)) | st.tuples(
            st.just("between"), st.tuples(low, high)
        )
        far = st.sampled_from([0, 1, 2, 3, 7, 30, 31, 365])
        days = st.tuples(compare, far) | st.tuples(
            st.just("between"), st.tuples(st.integers(0, 3), st.sampled_from([3, 30]))
        )
        dates = st.one_of(
            st.tuples(st.sampled_from(["before", "after"]), self.dates | self.given),
            st.tuples(st.just("on"), self.days),
            st.tuples(st.just("between"), self.two_dates),
        )
        return st.one_of(
            st.just(rules.Count(">=", 1)),
            counts.map(lambda c: rules.Count(*c)),
            days.map(lambda c: rules.DaysSinceLast(*c)),
            days.map(lambda c: rules.DaysSinceFirst(*c)),
            dates.map(lambda c: rules.LastDate(*c)),
            dates.map(lambda c: rules.FirstDate(*c)),
        )

    @property
    def periods(self) -> st.SearchStrategy[Any]:
        return st.one_of(
            st.none(),
            st.builds(
                rules.Last,
                st.sampled_from([1, 2, 3, 7, 12, 25, 48]),
                st.sampled_from(["hours", "days", "weeks", "months"]),
            ),
            st.builds(rules.Span, self.dates, st.none()),
            st.builds(rules.Span, st.none(), self.dates),
            self.two_dates.map(lambda ends: rules.Span(*ends)),
            st.builds(
                rules.Calendar,
                st.sampled_from(["this", "previous"]),
                st.sampled_from(rules.CALENDAR_UNITS),
            ),
        )

    @property
    def choice(self) -> st.SearchStrategy[dict[str, Any]]:
        lines = st.sampled_from(FIELDS).flatmap(
            lambda field: self.comparison().map(lambda c: rules.FieldIs(field, *c))
        )
        return st.fixed_dictionaries(
            {
                "event": st.sampled_from(EVENTS),
                "where": st.just(())
                | st.just(())
                | st.lists(lines, min_size=1, max_size=2).map(tuple),
                "source": st.just(())
                | st.just(())
                | st.just(())
                | st.lists(
                    st.sampled_from(SOURCES), min_size=1, max_size=2, unique=True
                ).map(tuple),
            }
        )

    @property
    def happened(self) -> st.SearchStrategy[rules.Rule]:
        since = self.choice.map(lambda chosen: rules.Since(**chosen))

        def beside(is_there: bool) -> st.SearchStrategy[tuple[rules.Beside, ...]]:
            made = st.builds(
                lambda chosen, same, order: rules.Beside(
                    is_there=is_there, same=same, order=order, **chosen
                ),
                self.choice,
                st.sampled_from([(), ("product",), ("product",), ("name", "product")])
                | st.sampled_from(SAME).map(lambda code: (code,)),
                st.sampled_from(rules.ORDERS),
            )
            return st.just(()) | made.map(lambda one: (one,))

        return st.builds(
            lambda chosen, period, question, there, lacking: rules.Happened(
                period=period, question=question, beside=there + lacking, **chosen
            ),
            self.choice,
            self.periods | since,
            self.questions,
            beside(True),
            beside(False),
        )

    @property
    def messaged(self) -> st.SearchStrategy[rules.Rule]:
        return st.builds(
            rules.Messaged,
            st.sampled_from(rules.MESSAGE_STAGES),
            st.none() | st.sampled_from(self.campaigns),
            st.sampled_from(["", *CHANNELS]),
            self.periods,
            self.questions,
        )

    @property
    def leaves(self) -> st.SearchStrategy[rules.Rule]:
        channel, category = (
            st.sampled_from(CHANNELS),
            st.sampled_from(["", *CATEGORIES]),
        )
        answer = st.sampled_from(rules.CONSENT_ANSWERS)
        in_period = st.builds(
            rules.Happened,
            event=st.sampled_from(EVENTS),
            period=self.periods,
            question=st.just(rules.Count(">=", 1)) | self.questions,
        )
        return st.one_of(
            self.attributes,
            in_period,
            self.happened,
            self.happened,
            self.messaged,
            st.builds(rules.ConsentIs, channel, answer, category)
            | st.builds(rules.Reachable, channel, category)
            | st.builds(rules.InSegment, st.sampled_from(self.segments)),
        )

    @property
    def everything(self) -> st.SearchStrategy[rules.Rule]:
        return st.recursive(
            self.leaves,
            lambda inner: st.one_of(
                st.lists(inner, min_size=1, max_size=3).map(
                    lambda parts: rules.All(tuple(parts))
                ),
                st.lists(inner, min_size=1, max_size=3).map(
                    lambda parts: rules.AnyOf(tuple(parts))
                ),
                inner.map(rules.Not),
            ),
            max_leaves=6,
        )


class Everyone:
    """Random customers with random histories, in the database and in memory."""

    def __init__(self, now: datetime, *, count: int = 60, seed: int = 7) -> None:
        self.now, self.dice = now, random.Random(seed)
        self.calendar = Calendar(now)
        self.people: dict[int, Person] = {}
        schema.forget_known()
        self._declare()
        self._settle()
        self.content = Content.objects.create(channel="sms", text="Hello")
        items: dict[str, list[dict[str, Any]]] = {name: [] for name in SOURCES}
        for i in range(count):
            self._person(i, items)
        for name, sent in items.items():
            found = record_events(sent, source=make.source(name), now=now)
            assert found.rejected == 0
        # And what was learned from the events that came.
        known = EventField.objects.values_list("type__name", "code", "value_type")
        self.types |= {(name, code): kind for name, code, kind in known}
        self.world = World(
            now=now,
            zone=ZONE,
            types=self.types,
            context=CONTEXT,
            segments=dict(self.dynamic),
            suppressed=self.suppressed,
            defaults=self.defaults,
        )
        self.rules = Rules(
            self.calendar, [*self.dynamic, self.varied, *self.lists], self.campaigns
        )

    def _declare(self) -> None:
        """Event types, some of whose fields are declared otherwise than they come."""
        for code, type_ in ATTRIBUTES.items():
            Attribute.objects.create(code=code, type=type_.value)
        for name in EVENTS:
            event_type = make.event_type(name)
            kinds = {"price": "string"}
            if name == "Paid":
                kinds = {"price": "number", "name": "number"}
            for code, kind in kinds.items():
                EventField.objects.create(type=event_type, code=code, value_type=kind)
        self.types: dict[Any, str] = {c: t.value for c, t in ATTRIBUTES.items()}

    def _settle(self) -> None:
        """What the installation decided, and the segments there are."""
        self.defaults: dict[Any, bool] = {
            channel: self.dice.random() < 0.5 for channel in CHANNELS
        }
        for channel in CHANNELS:
            if self.defaults[channel] or self.dice.random() < 0.5:
                ChannelSettings.objects.create(
                    channel=channel, default_consent=self.defaults[channel]
                )
        self.categories = {}
        for code in CATEGORIES:
            for channel in CHANNELS:
                self.defaults[channel, code] = self.dice.random() < 0.5
            self.categories[code] = MailingCategory.objects.create(
                code=code,
                name=code.title(),
                **{f"default_{c}": self.defaults[c, code] for c in CHANNELS},
            )
        self.suppressed: set[tuple[str, str]] = set()
        self.campaigns = [
            Campaign.objects.create(name=name).pk for name in ("Hello", "Goodbye")
        ]
        static = [
            Segment.objects.create(name=f"List {n}", kind="static") for n in range(2)
        ]
        self.lists = [segment.pk for segment in static]
        within: list[rules.Rule] = [
            rules.Attribute("city", "=", "Paris"),
            rules.All((rules.InSegment(static[0].pk), rules.Happened("Paid"))),
        ]
        self.dynamic: dict[int, rules.Rule] = {}
        for n, rule in enumerate(within):
            self.save(Segment(name=f"Segment {n}"), rule)
        #: Its rule is another one for each case.
        self.varied = Segment.objects.create(name="Varied", rule={}).pk

    def save(self, segment: Segment, rule: rules.Rule) -> None:
        segment.rule = rules.to_json(rule)
        segment.save()
        self.dynamic[segment.pk] = rule

    def vary(self, rule: rules.Rule) -> None:
        """Give the varied segment this rule."""
        Segment.objects.filter(pk=self.varied).update(rule=rules.to_json(rule))
        self.world.segments[self.varied] = rule

    def _person(self, i: int, items: dict[str, list[dict[str, Any]]]) -> None:
        dice, calendar = self.dice, self.calendar
        held: dict[str, Any] = {}
        written = calendar.written_dates()
        for code, type_ in ATTRIBUTES.items():
            pool = {
                ValueType.LIST: [*LISTS[:4], "Bag", 10],
                ValueType.DATE: [*written, *written, "Bag", 10],
            }.get(type_, [*SCALARS, *written[:3]])
            if dice.random() < 0.7:
                held[code] = dice.choice(pool)
        columns = {
            "city": dice.choice(CITIES),
            "email": dice.choice(["", f"c{i}@example.com", f"C{i}@Example.com"]),
            "email_is_valid": dice.random() < 0.8,
            "phone": dice.choice(["", f"+49151{i:08d}"]),
            "phone_is_valid": dice.random() < 0.8,
            "birth_date": dice.choice([None, *calendar.births()]),
            "registered_at": dice.choice(
                [
                    None,
                    calendar.instant(dice),
                    self.now + timedelta(hours=dice.randrange(-48, 900)),
                    self.now - timedelta(days=365, minutes=dice.randrange(-90, 90)),
                ]
            ),
        }
        customer = Customer.objects.create(
            external_id=f"C-{i}", attributes=held, **columns
        )
        person = Person(columns, held)
        self.people[customer.pk] = person
        # Several at the same moment are neither before nor after each other.
        moments = [calendar.instant(dice) for _ in range(4)]
        for _ in range(dice.choice([0, 1, 2, 4, 7])):
            event = Happening(
                dice.choice(EVENTS),
                dice.choice([*moments, calendar.instant(dice)]),
                self._context(),
                dice.choice(SOURCES),
            )
            person.events.append(event)
            items[event.source].append(
                {
                    "name": event.name,
                    "customer": customer.external_id,
                    "occurred_at": event.at.isoformat(),
                    "context": event.context,
                }
            )
        self._reach(customer, person)

    def _context(self) -> dict[str, Any]:
        dice = self.dice
        pool = [*SCALARS, None, *LISTS, {"city": "Paris"}]
        found: dict[str, Any] = {
            code: dice.choice(pool)
            for code in ("name", "price", "gift", "lines")
            if dice.random() < 0.6
        }
        if dice.random() < 0.8:
            alike = [10, "10", 10.0, "10.0", True, "true", None, [10], 1e3, "1000"]
            found["product"] = dice.choice(alike)
        if dice.random() < 0.6:
            found["day"] = dice.choice([*self.calendar.written_dates(), 10, None])
        if dice.random() < 0.5:
            found["address"] = dice.choice([{"city": dice.choice(pool)}, [], "Paris"])
        return found

    def _reach(self, customer: Customer, person: Person) -> None:
        dice, now = self.dice, self.now
        for channel in CHANNELS:
            for code in ("", *CATEGORIES):
                if dice.random() < 0.5:
                    answer = dice.random() < 0.6
                    person.consents[channel, code] = answer
                    Consent.objects.create(
                        customer=customer,
                        channel=channel,
                        category=self.categories.get(code),
                        is_granted=answer,
                        changed_at=now,
                    )
        heard_of: list[tuple[datetime, int, Phone]] = []
        tokens = [f"t{customer.pk}", f"T{customer.pk}", ""]
        for token in tokens[: dice.choice([0, 1, 2, 3])]:
            phone = Phone(token, dice.random() < 0.7)
            device = Device.objects.create(
                customer=customer, platform="ios", token=token, is_valid=phone.is_valid
            )
            at = now - timedelta(days=dice.randrange(3))
            Device.objects.filter(pk=device.pk).update(updated_at=at)
            heard_of.append((at, device.pk, phone))
        person.devices = [
            phone for _, _, phone in sorted(heard_of, key=lambda d: d[:2])
        ]
        addresses = [
            ("email", person.columns["email"]),
            ("sms", person.columns["phone"]),
            *(("push", device.token) for device in person.devices),
        ]
        for channel, address in addresses:
            if address and dice.random() < 0.3:
                held = Suppression.objects.create(
                    channel=channel, address=address, reason="bounced"
                )
                self.suppressed.add((channel, held.address))
        for _ in range(dice.choice([0, 0, 1, 3])):
            self._letter(customer, person)
        for segment in self.lists:
            if dice.random() < 0.4:
                person.lists.add(segment)
                Membership.objects.create(
                    customer=customer, segment_id=segment, since=now
                )

    def _letter(self, customer: Customer, person: Person) -> None:
        dice = self.dice
        letter = Letter(
            dice.choice([None, *self.campaigns]),
            dice.choice(CHANNELS),
            dice.random() < 0.2,
        )
        at = self.calendar.instant(dice)
        for stage in rules.MESSAGE_STAGES:
            if dice.random() < 0.25:
                break
            letter.stages[stage] = at
            at += timedelta(minutes=dice.randrange(60 * 48))
        person.letters.append(letter)
        Message.objects.create(
            customer=customer,
            channel=letter.channel,
            content=self.content,
            campaign_id=letter.campaign,
            is_test=letter.is_test,
            due_at=self.now,
            expires_at=self.now,
            created_at=self.now,
            **{f"{stage}_at": when for stage, when in letter.stages.items()},
        )

    def meet(self, rule: rules.Rule) -> set[int]:
        """Who meets the rule, by the simple reading of the language."""
        return {
            pk for pk, person in self.people.items() if self.world.holds(rule, person)
        }
