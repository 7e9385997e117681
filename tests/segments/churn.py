"""A world in which everything changes all the time, for the tests of upkeep.

What happens is drawn from a seed. The clock is the world's own and goes on by moments,
hours, and now and then by weeks.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from customers.merging import merge
from customers.models import Attribute, Consent, Customer, Device
from customers.upsert import upsert_customers
from events.ingest import record_events
from events.models import EventField, EventType, Kind
from messaging.models import ChannelSettings, Message, Suppression
from segments import rules
from segments.compile import compile_rule, customers_matching
from segments.models import Membership, Segment
from tests import make

BEGIN = datetime(2026, 10, 20, 12, 0, tzinfo=UTC)
TYPES = ["Product viewed", "Order paid", "Call received", "Logged in", "Rare thing"]
WEIGHTS = [50, 20, 10, 19, 1]
CITIES = ["Paris", "Berlin", "Riga", ""]
TIERS = ["gold", "silver", None]
VIEWED, PAID, CALL, LOGIN = TYPES[:4]


def _event(name: str, **more: Any) -> dict[str, Any]:
    return {"event": name, **more}


def _last(number: int, unit: str) -> dict[str, Any]:
    return {"last": number, "unit": unit}


#: name → rule. A text in the place of a segment's id names one that stands above it.
RULES: dict[str, Any] = {
    "in a city": {"attribute": "city", "op": "in", "value": ["Paris", "Berlin"]},
    "gold": {"attribute": "tier", "op": "=", "value": "gold"},
    "high score": {"attribute": "score", "op": ">", "value": 50},
    "joined lately": {"attribute": "joined", "op": "days ago <=", "value": 10},
    "registered long ago": {
        "attribute": "registered_at",
        "op": "days ago >=",
        "value": 60,
    },
    "viewed in 2 hours": _event(VIEWED, period=_last(2, "hours")),
    "viewed thrice in a week": _event(
        VIEWED,
        where=[{"field": "name", "op": "=", "value": "Bag"}],
        period=_last(1, "weeks"),
        count={"op": ">=", "value": 3},
    ),
    "paid in a month": _event(PAID, period=_last(1, "months")),
    "dear orders": _event(
        PAID,
        where=[{"field": "price", "op": ">=", "value": 50}],
        period=_last(30, "days"),
    ),
    "quiet for 3 days": _event(LOGIN, days_since_last={"op": ">=", "value": 3}),
    "seen 1 to 2 days ago": _event(
        LOGIN, days_since_last={"op": "between", "value": [1, 2]}
    ),
    "called last before November": _event(
        CALL, last={"op": "before", "value": "2026-11-01"}
    ),
    "never paid": {"not": _event(PAID)},
    "exactly twice": _event(CALL, count={"op": "=", "value": 2}),
    "at most once in 5 days": _event(
        VIEWED, period=_last(5, "days"), count={"op": "<=", "value": 1}
    ),
    "the headline": {
        "all": [
            _event(
                VIEWED,
                where=[{"field": "name", "op": "=", "value": "Bag"}],
                period=_last(30, "days"),
                count={"op": ">=", "value": 3},
            ),
            {"not": _event(PAID, period=_last(7, "days"))},
            {"attribute": "city", "op": "in", "value": ["Paris", "Berlin"]},
        ]
    },
    "of segments": {"all": [{"segment": "never paid"}, {"segment": "in a city"}]},
    "of segments of segments": {
        "any": [{"segment": "of segments"}, {"not": {"segment": "quiet for 3 days"}}]
    },
    "rare": _event("Rare thing", period=_last(90, "days")),
    "first paid lately": _event(PAID, days_since_first={"op": "<=", "value": 4}),
    "paid since the last call": _event(PAID, period={"since": {"event": CALL}}),
    "did not pay what was viewed": _event(
        VIEWED,
        period=_last(10, "days"),
        without={"event": PAID, "same": ["product_id"], "order": "after"},
    ),
    "of the app": _event(LOGIN, source="app", period=_last(12, "hours")),
    "this week": _event(
        VIEWED, period={"this": "week"}, count={"op": ">=", "value": 2}
    ),
    "the month before": _event(PAID, period={"previous": "month"}),
    "said yes": {"consent": "email", "is": "yes"},
    "reachable": {
        "any": [{"reachable": "email"}, {"reachable": "push"}, {"reachable": "sms"}]
    },
    "opened lately": {"message": "opened", "period": _last(5, "days")},
    "got three": {
        "message": "sent",
        "channel": "sms",
        "count": {"op": ">=", "value": 3},
    },
    "of age": {"attribute": "age", "op": ">=", "value": 30},
    "birthday": {"attribute": "birth_date", "op": "anniversary within", "value": 7},
    "joins soon": {"attribute": "joined", "op": "days ahead <=", "value": 5},
    "delivered in time": _event(
        PAID, where=[{"field": "delivery", "op": "days ago <=", "value": 2}]
    ),
    "of the list": {"all": [{"segment": "a list"}, {"not": {"segment": "never paid"}}]},
}
#: Rules of which one is taken where another was: edits.
EXTRA = {"attribute": "city", "op": "!=", "value": "Riga"}


@dataclass
class World:
    """Customers, events and segments, and a clock."""

    seed: int
    customers: int = 100
    now: datetime = BEGIN
    events: int = 0
    done: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.number = 0
        for name in TYPES:
            make.event_type(name)
        for code, type_ in [
            ("tier", "string"),
            ("score", "number"),
            ("joined", "date"),
        ]:
            Attribute.objects.create(code=code, type=type_)
        self.source = make.source("shop")
        self.other = make.source("app")
        self.ids = [f"C-{n}" for n in range(self.customers)]
        self.tell_customers(len(self.ids))
        self.segments = {"a list": Segment.objects.create(name="a list", kind="static")}
        for name, rule in RULES.items():
            self.segments[name] = Segment.objects.create(
                name=name, rule=self.with_ids(rule)
            )

    def with_ids(self, rule: Any) -> Any:
        match rule:
            case {"segment": str(name)}:
                return {"segment": self.segments[name].pk}
            case dict():
                return {key: self.with_ids(value) for key, value in rule.items()}
            case list():
                return [self.with_ids(part) for part in rule]
        return rule

    # --- what happens -------------------------------------------------------------

    def step(self, *, most: int = 60) -> None:
        """Something happens; the clock goes on."""
        happenings = [
            (self.some_events, 60),
            (self.tell_some_customers, 20),
            (self.consents, 6),
            (self.devices, 3),
            (self.messages, 8),
            (self.suppressions, 3),
            (self.merge_two, 2),
            (self.erase_one, 1),
            (self.lists, 3),
            (self.rule_changes, 2),
            (self.declarations, 1),
        ]
        for _ in range(self.random.randint(1, 3)):
            (deed,) = self.random.choices(
                [deed for deed, _ in happenings], [weight for _, weight in happenings]
            )
            if deed == self.some_events:
                self.some_events(self.random.randint(1, most))
            else:
                deed()
            self.done[deed.__name__] = self.done.get(deed.__name__, 0) + 1
        self.pass_time()

    def pass_time(self) -> None:
        draw = self.random.random()
        if draw < 0.70:
            self.now += timedelta(seconds=self.random.uniform(0, 900))
        elif draw < 0.95:
            self.now += timedelta(minutes=self.random.uniform(1, 300))
        elif draw < 0.995:
            self.now += timedelta(hours=self.random.uniform(1, 40))
        else:
            self.now += timedelta(days=self.random.uniform(2, 40))

    def some_events(self, number: int = 10) -> None:
        items = []
        for _ in range(number):
            self.number += 1
            draw = self.random.random()
            if draw < 0.75:
                ago = timedelta(seconds=self.random.expovariate(1 / 600))
            elif draw < 0.80:
                ago = -timedelta(seconds=self.random.uniform(0, 299))
            else:
                ago = timedelta(days=self.random.uniform(0, 100))
            (name,) = self.random.choices(TYPES, WEIGHTS)
            items.append(
                {
                    "id": f"e-{self.number}",
                    "name": name,
                    "customer": self.somebody(),
                    "occurred_at": (self.now - ago).isoformat(),
                    "backfill": self.random.random() < 0.1,
                    "context": {
                        "name": self.random.choice(["Bag", "Shoe", "Hat"]),
                        "product_id": self.random.randint(1, 6),
                        "price": self.random.choice([10, 49.9, "55", 60, "none"]),
                        "delivery": (
                            self.now + timedelta(days=self.random.uniform(-5, 3))
                        ).isoformat(),
                    },
                }
            )
        source = self.source if self.random.random() < 0.8 else self.other
        self.events += record_events(items, source=source, now=self.now).accepted

    def somebody(self) -> str:
        if self.random.random() < 0.01:
            self.ids.append(f"C-{len(self.ids)}")
            return self.ids[-1]
        # Some far more often than others.
        return self.ids[int(len(self.ids) * self.random.random() ** 2)]

    def tell_some_customers(self) -> None:
        self.tell_customers(self.random.randint(1, 8))

    def tell_customers(self, number: int) -> None:
        items = []
        chosen = (
            self.ids
            if number == len(self.ids)
            else [self.somebody() for _ in range(number)]
        )
        for external_id in chosen:
            day = (self.now - timedelta(days=self.random.randint(-20, 90))).date()
            born = self.now.date() - timedelta(days=self.random.randint(5_000, 20_000))
            item: dict[str, Any] = {"external_id": external_id}
            facts = {
                "city": self.random.choice(CITIES),
                "email": self.random.choice([f"{external_id}@example.com", "", "bad"]),
                "phone": f"+4915112{self.random.randint(100000, 999999)}",
                "birth_date": born.isoformat(),
                "registered_at": (
                    self.now - timedelta(days=self.random.uniform(0, 100))
                ).isoformat(),
                "attributes": {
                    "tier": self.random.choice(TIERS),
                    "score": self.random.randint(0, 100),
                    "joined": self.random.choice([day.isoformat(), None]),
                },
            }
            for name in self.random.sample(sorted(facts), self.random.randint(1, 4)):
                item[name] = facts[name]
            items.append(item)
        told = upsert_customers(items, origin="shop", now=self.now)
        assert not told.count("rejected"), told

    def consents(self) -> None:
        channel = self.random.choice(["email", "sms", "push"])
        answer = self.random.choice([True, False])
        items = [
            {"external_id": self.somebody(), "consents": {channel: answer}}
            for _ in range(4)
        ]
        upsert_customers(items, origin="shop", now=self.now)
        if self.random.random() < 0.2:
            one = Consent.objects.order_by("?").first()
            if one is not None:
                one.delete()

    def devices(self) -> None:
        if self.random.random() < 0.7:
            token = f"token-{self.random.randint(1, 60)}"
            device = {"platform": "ios", "token": token}
            items = [{"external_id": self.somebody(), "devices": [device]}]
            upsert_customers(items, origin="shop", now=self.now)
        else:
            valid = self.random.random() < 0.5
            some = Device.objects.order_by("?")[:2].values("pk")
            Device.objects.filter(pk__in=some).update(is_valid=valid)

    def messages(self) -> None:
        customer = Customer.objects.order_by("?").first()
        assert customer is not None
        if self.random.random() < 0.5 or not Message.objects.exists():
            message = make.message(customer, now=self.now)
            message.status = Message.Status.SENT
            message.sent_at = self.now - timedelta(days=self.random.uniform(0, 20))
            message.is_test = self.random.random() < 0.1
            message.save()
            return
        some = Message.objects.order_by("?")[:5].values("pk")
        stage = self.random.choice(["delivered_at", "opened_at", "clicked_at"])
        at = self.now - timedelta(days=self.random.uniform(0, 9))
        Message.objects.filter(pk__in=some).update(**{stage: at})

    def suppressions(self) -> None:
        if self.random.random() < 0.6:
            customer = Customer.objects.exclude(email="").order_by("?").first()
            if customer is not None:
                Suppression.objects.get_or_create(
                    channel="email", address=customer.email.lower()
                )
            device = Device.objects.order_by("?").first()
            if device is not None and self.random.random() < 0.3:
                Suppression.objects.get_or_create(channel="push", address=device.token)
        else:
            one = Suppression.objects.order_by("?").first()
            if one is not None:
                one.delete()

    def lists(self) -> None:
        listed = self.segments["a list"]
        if self.random.random() < 0.6:
            some = Customer.objects.order_by("?")[:4]
            Membership.objects.bulk_create(
                [Membership(customer=c, segment=listed, since=self.now) for c in some],
                ignore_conflicts=True,
            )
        else:
            one = Membership.objects.filter(segment=listed).order_by("?").first()
            if one is not None:
                one.delete()

    def merge_two(self) -> None:
        kept, former = self.random.sample(
            list(Customer.objects.order_by("pk").values_list("external_id", flat=True)),
            2,
        )
        merge(kept, former, by="shop", now=self.now)

    def erase_one(self) -> None:
        customer = Customer.objects.order_by("?").first()
        if customer is not None and Customer.objects.count() > 20:
            # Its events stay, and belong to nobody.
            customer.delete()

    def rule_changes(self) -> None:
        name = self.random.choice(sorted(RULES))
        segment = self.segments[name]
        rule = self.with_ids(RULES[name])
        if self.random.random() < 0.5:
            rule = {"all": [rule, EXTRA]}
        Segment.objects.filter(pk=segment.pk).update(rule=rule)

    def declarations(self) -> None:
        price = EventField.objects.filter(type__name=PAID, code="price")
        price.update(value_type=self.random.choice(["number", "string"]))
        if self.random.random() < 0.3:
            EventType.objects.get_or_create(
                name=f"New {self.random.randint(1, 9)}",
                defaults={"kind": Kind.CUSTOMER},
            )
        if self.random.random() < 0.3:
            ChannelSettings.objects.update_or_create(
                channel="email",
                defaults={"default_consent": self.random.random() < 0.5},
            )

    # --- how it should be ---------------------------------------------------------

    def differences(self) -> dict[str, tuple[set[int], set[int]]]:
        """Segment → who should be a member and is not; who is and should not be."""
        known = set(Customer.objects.values_list("pk", flat=True))
        found = {}
        for segment in Segment.objects.filter(kind=Segment.Kind.DYNAMIC):
            query = compile_rule(rules.parse(segment.rule), now=self.now)
            wanted = customers_matching(query) & known
            rows = Membership.objects.filter(segment=segment)
            members = set(rows.values_list("customer_id", flat=True))
            if members != wanted or segment.count != len(wanted):
                found[segment.name] = (wanted - members, members - wanted)
        return found
