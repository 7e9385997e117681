"""Merge two customers who are one person, with all that belongs to them.

One is kept; the other one's ID becomes a FormerId, by which the customer who was kept
is found from then on. Apps above this one hold rows of customers too: each introduces a
mover for its tables when it starts, and tests/guards tell when a table has none.

All is one transaction. Both customers are locked first, so nobody records an event or
tells anything about them meanwhile; then come the rows that workers work off, in the
order in which workers lock them; see `Stage`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any

import msgspec
from django.db import OperationalError, models, transaction

from customers import sharing
from customers.devices import forget_surplus
from customers.models import Consent, Customer, Device, FormerId
from customers.wire import COLUMNS, check_external_id
from smartcomm.core.db import execute, sqlstate
from smartcomm.core.errors import Conflict, Invalid, NotFound

DEADLOCK = "40P01"
ATTEMPTS = 5


class Stage(IntEnum):
    """When a mover is called. Within a stage: from the lowest app to the highest."""

    #: What may be long, and no worker ever changes: it moves before others must wait.
    HISTORY = 1
    #: Lock what workers have in hand, so that none of it slips through.
    HOLD = 2
    MOVE = 3
    #: What could not go before everything that refers to it had gone.
    REST = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """Two customers, by primary key, while the former becomes the kept one."""

    kept: int
    former: int
    kept_id: str
    former_id: str
    now: datetime

    @property
    def params(self) -> dict[str, Any]:
        """For statements: %(kept)s, %(former)s, %(former_id)s, %(now)s."""
        return {
            "kept": self.kept,
            "former": self.former,
            "former_id": self.former_id,
            "now": self.now,
        }


#: Moves rows of the former to the kept one; tells how many, by a word for people.
Mover = Callable[[Pair], Mapping[str, int]]

_movers: list[tuple[Stage, Mover]] = []
#: The tables that have a mover.
moved_models: set[type[models.Model]] = set()


def introduce(mover: Mover, *of: type[models.Model], stage: Stage = Stage.MOVE) -> None:
    """Have `mover` called in every merge. `of`: the tables that it cares for.

    A mover works in sets, whatever the number of rows, and leaves none behind.
    """
    _movers.append((stage, mover))
    moved_models.update(of)


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did. The same merge asked for again answers the same."""

    #: The customer whom both IDs lead to now.
    pk: int
    external_id: str
    former_id: str
    merged_at: datetime
    #: How much moved: {"events": 12, "messages": 3, ...}.
    moved: dict[str, int] = field(default_factory=dict)
    #: False where they had been merged before, so that nothing was to be done.
    is_new: bool = True


class _Overtaken(Exception):
    """One of the two was merged by somebody else since we looked."""


def merge(kept: str, former: str, *, by: str, now: datetime) -> Merged:
    """Make the customer `former` a part of the customer `kept` (both external ids).

    The kept one's values stay, and gaps are filled from the former; events, messages,
    runs, consents and devices of both are the kept one's afterwards. The ID `former`
    leads to the kept one for ever. `by` is who asked for it, for the record: a source,
    or "staff: anna".

    Asked for again, it changes nothing and answers the same. An ID that is a former one
    already stands for the customer it leads to, as far as that makes sense; otherwise
    Conflict. NotFound where nobody has or had an ID; Invalid for one and the same ID.

    One transaction, a constant number of statements. Safe beside workers and whatever
    is told meanwhile. 100,000 events take some seconds, in which events of these two
    customers wait.
    """
    check_external_id(kept)
    check_external_id(former)
    if kept == former:
        raise Invalid(
            f"“{former}” cannot be merged with itself. Name two customers.",
            code="merge_with_itself",
        )
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with transaction.atomic():
                return _merge(kept, former, by=by, now=now)
        except _Overtaken:
            if attempt == ATTEMPTS:
                raise Conflict(
                    "Others are merging the same customers. Try again.",
                    code="merge_overtaken",
                ) from None
        except OperationalError as error:
            deadlock = sqlstate(error) == DEADLOCK
            if not deadlock or attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def current_ids(external_ids: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Former ID → (primary key, external id) of the customer who was kept.

    IDs that are no former ones are left out. One query.
    """
    rows = FormerId.objects.filter(external_id__in=list(external_ids)).values_list(
        "external_id", "customer_id", "customer__external_id"
    )
    return {old: (pk, external_id) for old, pk, external_id in rows}


# --- the merge --------------------------------------------------------------------


def _merge(kept: str, former: str, *, by: str, now: datetime) -> Merged:
    led_to = current_ids([kept, former])
    target = led_to[kept][1] if kept in led_to else kept
    if former in led_to:
        return _merged_before(former, target=target, kept=kept, led_to=led_to)
    if target == former:
        raise Conflict(
            f"“{kept}” was merged into “{former}” already; it cannot be done the other "
            "way round as well.",
            code="merge_reversed",
        )
    customers = _lock({target, former})
    for asked, id in ((kept, target), (former, former)):
        if id not in customers:
            if current_ids([id]):
                raise _Overtaken
            raise NotFound(f"There is no customer “{asked}”.", code="customer_unknown")
    one, other = customers[target], customers[former]
    pair = Pair(one.pk, other.pk, target, former, now)
    profile = profile_of(other)
    moved: dict[str, int] = {}
    for stage in Stage:
        for when, mover in _movers:
            if when == stage:
                moved |= mover(pair)
    # The contacts of a customer count once, so the former goes before we look.
    Customer.objects.filter(pk=other.pk)._raw_delete("default")
    Customer.objects.filter(pk=one.pk).update(
        **merged_values(one, other), updated_at=now
    )
    FormerId.objects.create(
        external_id=former,
        customer=one,
        profile=profile,
        moved={word: number for word, number in moved.items() if number},
        merged_by=by[:150],
        merged_at=now,
    )
    sharing.look_again(
        (),
        given_up=[
            (kind, getattr(who, kind)) for who in (one, other) for kind in sharing.KINDS
        ],
    )
    return _answer(former)


def _lock(external_ids: Iterable[str]) -> dict[str, Customer]:
    # The strongest lock: not even who only refers to them may go on.
    rows = Customer.objects.filter(external_id__in=list(external_ids))
    return {row.external_id: row for row in rows.order_by("pk").select_for_update()}


def _merged_before(
    former: str, *, target: str, kept: str, led_to: Mapping[str, tuple[int, str]]
) -> Merged:
    holds = led_to[former][1]
    if holds == target:
        return _answer(former, is_new=False)
    if not Customer.objects.filter(external_id=target).exists():
        raise NotFound(f"There is no customer “{kept}”.", code="customer_unknown")
    raise Conflict(
        f"“{former}” was merged into “{holds}” already. To merge that customer into "
        f"“{kept}”, name “{holds}”.",
        code="merged_elsewhere",
    )


def _answer(former: str, *, is_new: bool = True) -> Merged:
    row = FormerId.objects.select_related("customer").get(external_id=former)
    return Merged(
        pk=row.customer.pk,
        external_id=row.customer.external_id,
        former_id=former,
        merged_at=row.merged_at,
        moved=row.moved,
        is_new=is_new,
    )


# --- values -----------------------------------------------------------------------


def merged_values(kept: Customer, former: Customer) -> dict[str, Any]:
    """What the profile of the two holds: the kept one's values, gaps filled.

    An address that cannot be written to is a gap where the other's can.
    """
    values: dict[str, Any] = {
        name: getattr(kept, name) or getattr(former, name) for name in COLUMNS
    }
    for name in sharing.KINDS:
        is_valid = f"{name}_is_valid"
        theirs = not getattr(kept, name) or (
            getattr(former, is_valid) and not getattr(kept, is_valid)
        )
        source = former if theirs else kept
        values |= {f: getattr(source, f) for f in (name, is_valid)}
    return {
        **values,
        "attributes": former.attributes | kept.attributes,
        "is_stub": kept.is_stub and former.is_stub,
        "created_at": min(kept.created_at, former.created_at),
    }


def suggested(one: Customer, other: Customer) -> tuple[Customer, Customer]:
    """Which of two had better be kept, and which merged into it.

    Who is only an ID goes into who is known; otherwise the newer into the older, which
    is known under its ID in more places.
    """
    kept, former = sorted(
        (one, other), key=lambda customer: (customer.is_stub, customer.created_at)
    )
    return kept, former


def profile_of(customer: Customer) -> dict[str, Any]:
    """Everything that is told of a customer, as JSON, to be kept. Two queries."""
    columns = {f.attname: getattr(customer, f.attname) for f in customer._meta.fields}
    del columns["id"]
    consents = Consent.objects.filter(customer=customer).order_by("pk")
    devices = Device.objects.filter(customer=customer).order_by("pk")
    profile: dict[str, Any] = msgspec.to_builtins(
        {
            **columns,
            "consents": [
                {
                    "channel": channel,
                    "category": category,
                    "granted": granted,
                    "at": at,
                    "origin": origin,
                }
                for channel, category, granted, at, origin in consents.values_list(
                    "channel", "category__code", "is_granted", "changed_at", "origin"
                )
            ],
            "devices": list(devices.values("platform", "token", "is_valid")),
        }
    )
    return profile


# --- what is ours -----------------------------------------------------------------

# The newest answer holds; of two given at the same time, the no.
MOVE_CONSENTS = """
    WITH told AS (
        DELETE FROM customers_consent WHERE customer_id = %(former)s RETURNING *
    )
    INSERT INTO customers_consent AS mine
           (customer_id, channel, category_id, is_granted, origin, changed_at)
    SELECT %(kept)s, channel, category_id, is_granted, origin, changed_at FROM told
        ON CONFLICT (customer_id, channel, category_id) DO UPDATE
       SET is_granted = excluded.is_granted,
           origin = excluded.origin,
           changed_at = excluded.changed_at
     WHERE excluded.changed_at > mine.changed_at
        OR (excluded.changed_at = mine.changed_at AND NOT excluded.is_granted)
"""
MOVE_CONSENT_CHANGES = """
    WITH told AS (
        DELETE FROM customers_consentchange WHERE customer_id = %(former)s RETURNING *
    )
    INSERT INTO customers_consentchange (customer_id, channel, category_id, is_granted,
                                         origin, changed_at, recorded_at)
    SELECT %(kept)s, channel, category_id, is_granted, origin, changed_at, recorded_at
      FROM told ORDER BY id
        ON CONFLICT DO NOTHING
"""
MOVE_DEVICES = """
    WITH told AS (
        DELETE FROM customers_device WHERE customer_id = %(former)s RETURNING *
    )
    INSERT INTO customers_device
           (customer_id, platform, token, is_valid, created_at, updated_at)
    SELECT %(kept)s, platform, token, is_valid, created_at, updated_at
      FROM told ORDER BY id
        ON CONFLICT DO NOTHING
"""
# A chain is flattened: who was merged into the former leads to the kept one.
MOVE_FORMER_IDS = """
    UPDATE customers_formerid SET customer_id = %(kept)s WHERE customer_id = %(former)s
"""
# Who changed what in the back office stays to be seen.
MOVE_CHANGES_BY_STAFF = """
    UPDATE django_admin_log AS entry SET object_id = %(kept)s::text
      FROM django_content_type AS type
     WHERE entry.content_type_id = type.id
       AND type.app_label = 'customers' AND type.model = 'customer'
       AND entry.object_id = %(former)s::text
"""


def move_own(pair: Pair) -> Mapping[str, int]:
    """Move what this app holds of the former."""
    execute(MOVE_CONSENT_CHANGES, pair.params)
    execute(MOVE_FORMER_IDS, pair.params)
    execute(MOVE_CHANGES_BY_STAFF, pair.params)
    consents = execute(MOVE_CONSENTS, pair.params)
    devices = execute(MOVE_DEVICES, pair.params)
    forget_surplus([pair.kept])
    return {"consents": consents, "devices": devices}
