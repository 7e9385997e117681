"""Record what came in another format than ours: the door behind the doors.

Segment's messages tell of customers as well as of events, and CloudEvents mix events
of customers with system events; this takes a batch apart, and answers for each item in
its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog
from django.db import transaction

from customers.merging import current_ids, merge
from customers.models import Customer
from customers.upsert import upsert_customers
from customers.wire import check_external_id, read_change
from events.compat import cloudevents, segment
from events.compat.segment import Alias, Fact, Person
from events.ingest import (
    ACCEPTED,
    DUPLICATE,
    REJECTED,
    Recorded,
    Result,
    keep_refused,
    record_events,
)
from events.models import Format, Kind, RejectedEvent, Scope, Source
from events.wire import UNSTORABLE, Refusal
from smartcomm.core.errors import Invalid, UserError
from smartcomm.core.strict_json import NotJson, decode_item

logger = structlog.get_logger(__name__)


def tells_of_people(row: RejectedEvent) -> bool:
    """Whether what was refused is no event, but tells who a customer is."""
    return (
        row.format == Format.SEGMENT and segment.type_of(_sent(row)) in segment.PEOPLE
    )


def replay_people(
    rows: Sequence[RejectedEvent], *, source: Source, now: datetime
) -> Recorded:
    """Take messages that were refused once more; the results are in their order."""
    return record_messages(
        [_sent(row) for row in rows], source=source, now=now, keep_rejected=False
    )


def _sent(row: RejectedEvent) -> object:
    try:
        return decode_item(row.payload)
    except NotJson:
        return None


# CloudEvents


def record_cloudevents(
    items: Sequence[object], *, source: Source, now: datetime
) -> Recorded:
    """Record CloudEvents, of customers and of the system, as they came."""
    results: dict[int, Result] = {}
    for kind in Kind:
        chosen = {
            index: _with_time(item, now)
            for index, item in enumerate(items)
            if cloudevents.kind_of(item) == kind
        }
        if chosen:
            recorded = record_events(
                list(chosen.values()),
                source=source,
                kind=kind,
                format=Format.CLOUDEVENTS,
                now=now,
            )
            _put(results, recorded, chosen)
    return _sum(results)


def _with_time(item: object, now: datetime) -> object:
    """An event without a time happened when it came, also if it is replayed later."""
    if isinstance(item, dict) and item.get("time") is None:
        return item | {"time": now.isoformat()}
    return item


# Segment


def record_messages(
    items: Sequence[object],
    *,
    source: Source,
    now: datetime,
    scopes: Collection[str] = tuple(Scope.values),
    keep_rejected: bool = True,
) -> Recorded:
    """Record Segment's messages, each made whole by `segment.messages_of`.

    Who customers are is told first, so that an event is never refused for a customer
    whom the same batch identifies; then events are recorded; then those who have said
    who they are get the history from before. All of it may be done twice without
    effect, as a client does that got no answer.
    """
    batch = _Batch(source=source, now=now, scopes=scopes, keeps_rest=keep_rejected)
    events: dict[int, object] = {}
    for index, item in enumerate(items):
        if isinstance(item, dict) and segment.type_of(item) in segment.PEOPLE:
            batch.take(index, item)
        elif Scope.EVENTS in scopes:
            events[index] = item
        else:
            batch.refuse(index, item, _no_scope(Scope.EVENTS))
    batch.flush()
    if keep_rejected and batch.refused:
        _keep(batch, source)
    if events:
        recorded = record_events(
            list(events.values()),
            source=source,
            format=Format.SEGMENT,
            now=now,
            keep_rejected=keep_rejected,
        )
        _put(batch.results, recorded, events)
    batch.merge_anonymous()
    return _sum(batch.results)


def _keep(batch: _Batch, source: Source) -> None:
    rows = [batch.refused[index] for index in sorted(batch.refused)]
    keep_refused(
        [payload for payload, _ in rows],
        {index: refusal for index, (_, refusal) in enumerate(rows)},
        source=source,
        kind=Kind.CUSTOMER,
        format=Format.SEGMENT,
    )


@dataclass
class _Batch:
    """What the messages of one request tell about customers."""

    source: Source
    now: datetime
    scopes: Collection[str]
    #: Whether what is left of a message is kept. If not, something is left to be done.
    keeps_rest: bool
    results: dict[int, Result] = field(default_factory=dict)
    #: Index → what is kept of the message, and why.
    refused: dict[int, tuple[object, Refusal]] = field(default_factory=dict)
    people: list[tuple[int, Mapping[str, Any], Person]] = field(default_factory=list)
    #: Anonymous ID → the ID they have now.
    anonymous: dict[str, str] = field(default_factory=dict)

    def take(self, index: int, message: Mapping[str, Any]) -> None:
        try:
            if Scope.CUSTOMERS not in self.scopes:
                raise _no_scope(Scope.CUSTOMERS)
            told = segment.read_person(message)
            for id in _ids_of(told):
                _check_id(id)
            if isinstance(told, Alias):
                # Whoever it joins must be there as told so far.
                self.flush()
                self._join(told)
            else:
                self.people.append((index, message, told))
                if told.anonymous:
                    self.anonymous[told.anonymous] = told.external_id
        except Refusal as refusal:
            self.refuse(index, message, refusal)
        else:
            self.results[index] = Result(index, _id_of(message), ACCEPTED)

    def refuse(self, index: int, item: object, refusal: Refusal) -> None:
        self.refused[index] = item, refusal
        self.results[index] = Result(
            index,
            _id_of(item),
            REJECTED,
            refusal.code,
            refusal.field,
            refusal.message,
        )

    # Identify and group

    def flush(self) -> None:
        """Write what was told of people so far."""
        people, self.people = self.people, []
        while people:
            _check_facts((person for _, _, person in people), now=self.now)
            written = upsert_customers(
                [_change_of(person) for _, _, person in people],
                origin=self.source.name,
                now=self.now,
            ).results
            again = []
            changed: set[str] = set()
            for one, result in zip(people, written, strict=True):
                index, message, person = one
                if result.status == "rejected":
                    # Only the rows could tell, such as that a number was learnt.
                    if _refuse_facts(person, result.errors):
                        changed.add(person.external_id)
                        again.append(one)
                    else:
                        self.refuse(index, message, _as_refusal(result.errors[0]))
                elif person.external_id in changed:
                    again.append(one)  # So that what was told later counts.
                else:
                    self._tell_refused(index, message, person)
            people = again

    def _tell_refused(
        self, index: int, message: Mapping[str, Any], person: Person
    ) -> None:
        """A trait that is wrong spoils no other: it alone is kept, to be fixed."""
        if not person.refused:
            return
        first = person.refused[0][1]
        sentences = " ".join(refusal.message for _, refusal in person.refused)
        rest = segment.only(message, [fact for fact, _ in person.refused])
        refusal = Refusal(first.code, sentences, field=first.field)
        self.refused[index] = rest, refusal
        result = self.results[index]
        result.code, result.field = refusal.code, refusal.field
        result.message = refusal.message
        if not self.keeps_rest:
            result.status = REJECTED

    # Alias, and those who say who they are

    def _join(self, alias: Alias) -> None:
        if alias.external_id in alias.former:
            return  # It is one ID, told twice.
        former = _known_of(alias.former) or alias.former[0]
        _make_stubs([alias.external_id, former], source=self.source)
        try:
            merge(alias.external_id, former, by=self.source.name, now=self.now)
        except UserError as error:
            raise _as_refusal(error) from error

    def merge_anonymous(self) -> None:
        """Give the history from before to those who have said who they are.

        Whoever is merged into somebody already stays theirs: a browser that two
        people use has one anonymous ID for both.
        """
        if not self.anonymous:
            return
        there = Customer.objects.filter(external_id__in=list(self.anonymous))
        for former in sorted(there.values_list("external_id", flat=True)):
            kept = self.anonymous[former]
            try:
                merge(kept, former, by=self.source.name, now=self.now)
            except UserError as error:
                # Erased meanwhile, or joined the other way round by hand.
                logger.warning("segment.not_merged", kept=kept, code=error.code)


def _known_of(ids: Sequence[str]) -> str | None:
    """The first of these IDs that somebody has, or had."""
    known = set(current_ids(ids)) | set(
        Customer.objects.filter(external_id__in=ids).values_list(
            "external_id", flat=True
        )
    )
    return next((id for id in ids if id in known), None)


def _make_stubs(ids: list[str], *, source: Source) -> None:
    """Make the customers that are named and not known, where the source may."""
    known = set(current_ids(ids)) | set(
        Customer.objects.filter(external_id__in=ids).values_list(
            "external_id", flat=True
        )
    )
    missing = [id for id in ids if id not in known]
    if missing and source.unknown_customers == Source.UnknownCustomers.REJECT:
        raise Refusal(
            "customer_unknown",
            f"There is no customer “{missing[0]}”, and this source may not create any. "
            "Create the customer, then replay.",
            field="userId" if missing[0] == ids[0] else "previousId",
        )
    if not missing:
        return
    with transaction.atomic():
        Customer.objects.bulk_create(
            [Customer(external_id=id, is_stub=True) for id in missing],
            ignore_conflicts=True,
        )
        # Merged away since we looked: now that the ID is ours, nobody can any more.
        Customer.objects.filter(
            external_id__in=current_ids(missing), is_stub=True
        ).delete()


def _ids_of(told: Person | Alias) -> list[str]:
    if isinstance(told, Alias):
        return [told.external_id, told.former[0]]
    return [told.external_id, *([told.anonymous] if told.anonymous else [])]


def _check_id(id: str) -> None:
    try:
        check_external_id(id)
    except Invalid as error:
        raise Refusal(
            "customer_invalid",
            "An ID is a text of 1 to 128 characters without control characters; an "
            "anonymous one of at most 123.",
            field="anonymousId" if id.startswith(segment.ANONYMOUS) else "userId",
        ) from error


def _check_facts(people: Iterable[Person], *, now: datetime) -> None:
    """Set apart the traits that cannot be taken, each by itself."""
    for person in people:
        good = []
        for fact in person.facts:
            try:
                _check_fact(fact, now=now)
            except UserError as error:
                person.refused.append((fact, _about(fact, error)))
            else:
                good.append(fact)
        person.facts = good


def _check_fact(fact: Fact, *, now: datetime) -> None:
    _, errors = read_change({"external_id": "-", **_told([fact])}, now=now)
    if errors:
        raise errors[0]


def _refuse_facts(person: Person, errors: list[UserError]) -> bool:
    """Set apart the traits that these errors are about; False if there are none."""
    wrong = {error.field: error for error in errors}
    blamed = [fact for fact in person.facts if fact.place in wrong]
    person.refused += [(fact, _about(fact, wrong[fact.place])) for fact in blamed]
    person.facts = [fact for fact in person.facts if fact.place not in wrong]
    return bool(blamed)


def _about(fact: Fact, error: UserError) -> Refusal:
    """The refusal in the words of the sender."""
    sentence = UNSTORABLE.sub("\ufffd", error.message)
    return Refusal(error.code, f"{fact.trait}: {sentence}", field=fact.trait)


def _as_refusal(error: UserError) -> Refusal:
    return Refusal(error.code, error.message, field=error.field)


def _change_of(person: Person) -> dict[str, Any]:
    change = {"external_id": person.external_id, **_told(person.facts)}
    if person.devices:
        change["devices"] = person.devices
    return change


def _told(facts: Sequence[Fact]) -> dict[str, Any]:
    told: dict[str, Any] = {fact.column: fact.value for fact in facts if fact.column}
    own = {fact.attribute: fact.value for fact in facts if fact.attribute}
    return told | ({"attributes": own} if own else {})


def _no_scope(scope: Scope) -> Refusal:
    return Refusal(
        "scope_missing",
        f"The key lacks the scope “{scope}”, so this was kept and not applied. Replay "
        "it, if it is to count.",
        field="type",
    )


def _id_of(message: object) -> str:
    id = message.get("messageId") if isinstance(message, dict) else None
    return id if isinstance(id, str) else ""


# Answers


def _put(
    results: dict[int, Result], recorded: Recorded, places: Mapping[int, object]
) -> None:
    """Put the results of a part back where its items stood."""
    for index, result in zip(places, recorded.results, strict=True):
        result.index = index
        results[index] = result


def _sum(results: Mapping[int, Result]) -> Recorded:
    told = [results[index] for index in sorted(results)]
    statuses = [result.status for result in told]
    return Recorded(
        accepted=statuses.count(ACCEPTED),
        duplicates=statuses.count(DUPLICATE),
        rejected=statuses.count(REJECTED),
        results=told,
    )
