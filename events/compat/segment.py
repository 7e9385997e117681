"""Segment's messages → what they tell us: an event, or who a customer is.

Pure, so that a message that was refused reads the same when it is replayed. What
Segment's own server adds to a message is added by `messages_of`, once, when it comes.
docs/segment.md tells integrators the rules.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from customers.models import Device
from customers.wire import COLUMNS, COUNTRIES
from events.wire import FIELD_CODE, UNSTORABLE, Refusal
from smartcomm.core.strict_json import Unfit

#: What happened; and what is told about a customer.
EVENTS = frozenset({"track", "page", "screen"})
PEOPLE = frozenset({"identify", "group", "alias"})

#: Before the ID of somebody who has not said yet who they are.
ANONYMOUS = "anon:"

#: What a program writes where it has no ID. Taken for one, it would make many people
#: one customer.
NOBODY = frozenset({"undefined", "null", "none", "nan", "[object object]"})


_SECRET = re.compile(r"sck_[A-Za-z0-9_-]+")


def messages_of(body: Any, *, type: str | None, received_at: datetime) -> list[Any]:
    """The messages of a request, each whole in itself.

    Without a `type` the body is a batch. Every message gets its type, the time of
    receipt and of sending, an id if it has none, and what the batch says of all.
    """
    if type is not None:
        return [_whole(body, type, None, None, received_at)]
    return [
        _whole(one, None, body.get("sentAt"), body.get("context"), received_at)
        for one in body["batch"]
    ]


def _whole(
    message: object,
    type: str | None,
    sent_at: object,
    context: object,
    received_at: datetime,
) -> object:
    if isinstance(message, Unfit):
        return replace(message, text=_SECRET.sub("sck_…", message.text))
    if not isinstance(message, dict):
        return message
    # A key is nothing to be kept.
    whole = {key: value for key, value in message.items() if key != "writeKey"}
    if type is not None:
        whole["type"] = type
    if isinstance(sent_at, str):
        whole["sentAt"] = sent_at
    if isinstance(context, dict):
        own = message.get("context")
        whole["context"] = context | own if isinstance(own, dict) else context
    if whole.get("messageId") in (None, ""):
        whole["messageId"] = str(uuid.uuid4())
    whole["receivedAt"] = received_at.isoformat()
    return whole


def type_of(message: object) -> str:
    """The type of a message; empty if it tells none."""
    type = message.get("type") if isinstance(message, dict) else None
    return type if isinstance(type, str) else ""


def labels(message: Mapping[str, Any]) -> dict[str, Any]:
    """What a message that was refused is listed under."""
    type = type_of(message)
    name = message.get("event") if type == "track" else NAMES.get(type, type)
    return {"name": name, "id": message.get("messageId")}


# What happened


NAMES = {"page": "Page viewed", "screen": "Screen viewed"}


def translate(data: object) -> object:
    """A message that tells of an event → an event of ours. Raises Refusal."""
    if isinstance(data, Unfit):
        return data
    if not isinstance(data, dict):
        raise Refusal("not_an_object", "A message is a JSON object.")
    type = type_of(data)
    if type in PEOPLE:
        raise Refusal(
            "not_an_event",
            f"“{type}” tells of a customer, and is no event.",
            field="type",
        )
    if type not in EVENTS:
        raise Refusal(
            "type_unknown",
            f"“type” is one of {', '.join(sorted(EVENTS | PEOPLE))}.",
            field="type",
        )
    moment = moment_of(data)
    return {
        "id": _text_of(data.get("messageId")),
        "name": data.get("event") if type == "track" else NAMES[type],
        "customer": customer_of(data),
        "occurred_at": moment.isoformat() if moment else None,
        "context": _context(data, type),
    }


def _context(message: Mapping[str, Any], type: str) -> object:
    properties = message.get("properties")
    if properties is None:
        properties = {}
    if not isinstance(properties, dict):
        return properties
    if type != "track":
        told = {key: message.get(key) for key in ("name", "category")}
        told = {key: one for key, one in told.items() if one is not None}
        properties = properties | told
    about = message.get("context")
    campaign = about.get("campaign") if isinstance(about, dict) else None
    if isinstance(campaign, dict) and campaign and "campaign" not in properties:
        properties = properties | {"campaign": campaign}
    if properties.keys() <= _known_codes:
        return properties
    context: dict[str, Any] = {}
    for name, value in properties.items():
        code = field_code(name)
        if code in context:
            raise _collision(f"context.{name}", code)
        context[code] = value
    if len(_known_codes) < 10_000:
        _known_codes.update(code for code in context if FIELD_CODE.match(code))
    return context


# Field codes met before: a sender has few.
_known_codes: set[str] = set()

_ASCII = re.compile(r"[\x20-\x7e]+")
_NOT_OF_CODES = re.compile(r"[^A-Za-z0-9_]")


def field_code(name: str) -> str:
    """The field code for a name: every character that no code may have is `_`.

    “Product Name” is Product_Name, “order-id” order_id, “3d” _3d. A name that would
    not be recognised again, such as one in Cyrillic, stays as it is: it is refused
    further on, by its own name, and can be mapped.
    """
    if FIELD_CODE.match(name) or not _ASCII.fullmatch(name):
        return name
    code = _NOT_OF_CODES.sub("_", name)
    if code[0].isdigit():
        code = f"_{code}"
    return code if code.strip("_") and FIELD_CODE.match(code) else name


def _collision(place: str, code: str) -> Refusal:
    return Refusal(
        "field_code_collision",
        f"Two names come to the same field code, “{code}”. Rename one of them.",
        field=UNSTORABLE.sub("\ufffd", place),
    )


# When it happened


def moment_of(message: Mapping[str, Any]) -> datetime | None:
    """When it happened, by our clock: never later than when it came.

    The sender's clock may be wrong; how long before sending it happened is right
    all the same, as both times are of that clock. None means now.
    """
    received = _time(message, "receivedAt")
    told, original = _time(message, "timestamp"), _time(message, "originalTimestamp")
    moment = told or original
    if moment is None or received is None:
        return _utc(moment) if moment else received
    try:
        # With both, a server of Segment's has passed it on, and corrected it already.
        if (sent := _sent_at(message)) and not (told and original):
            moment = _utc(received) - (_utc(sent) - _utc(moment))
        return min(_utc(moment), _utc(received))
    except OverflowError as error:
        raise _wrong_time("timestamp") from error


def _sent_at(message: Mapping[str, Any]) -> datetime | None:
    try:
        return _time(message, "sentAt")
    except Refusal:
        return None  # It only serves to correct another time.


def _time(message: Mapping[str, Any], name: str) -> datetime | None:
    value = message.get(name)
    if value is None or value == "":
        return None
    try:
        return datetime.fromisoformat(value.strip().upper())
    except (AttributeError, ValueError) as error:
        raise _wrong_time(name) from error


def _utc(moment: datetime) -> datetime:
    """Without an offset it is UTC, as Segment's libraries take it."""
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC)


def _wrong_time(name: str) -> Refusal:
    return Refusal(
        "occurred_at_invalid",
        f"“{name}” is a time as in ISO 8601, such as 2026-11-20T10:15:00.000Z.",
        field=name,
    )


# Whose it is


def customer_of(message: Mapping[str, Any]) -> str:
    """The external id of a message's customer. Raises Refusal."""
    user = _id_of(message, "userId")
    if user is not None:
        return user
    anonymous = anonymous_of(message)
    if anonymous is None:
        raise Refusal(
            "customer_missing",
            "Say whose it is: “userId” or “anonymousId”.",
            field="userId",
        )
    return anonymous


def anonymous_of(message: Mapping[str, Any]) -> str | None:
    """The external id of whom a message names by `anonymousId`."""
    anonymous = _id_of(message, "anonymousId")
    return None if anonymous is None else ANONYMOUS + anonymous


def _id_of(message: Mapping[str, Any], name: str) -> str | None:
    value = _text_of(message.get(name))
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value.strip().lower() in NOBODY:
        raise Refusal(
            "customer_invalid",
            f"“{name}” is an ID as a text; “undefined”, “null” and the like are none.",
            field=name,
        )
    return value


def _text_of(value: object) -> object:
    """Segment takes numbers for IDs as well."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


# Who they are


@dataclass(frozen=True, slots=True)
class Fact:
    """One trait, and where it goes: one of our columns, or an attribute."""

    path: tuple[str, ...]
    value: Any
    column: str = ""
    attribute: str = ""

    @property
    def place(self) -> str:
        return self.column or f"attributes.{self.attribute}"

    @property
    def trait(self) -> str:
        return UNSTORABLE.sub("\ufffd", ".".join(("traits", *self.path)))


@dataclass(slots=True)
class Person:
    """What a message tells about one customer."""

    external_id: str
    facts: list[Fact] = field(default_factory=list)
    devices: list[dict[str, str]] = field(default_factory=list)
    #: Who they were before they said who they are.
    anonymous: str | None = None
    #: Traits that are of no use, with the reason.
    refused: list[tuple[Fact, Refusal]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Alias:
    """Two IDs of one customer. The former may be a user's or an anonymous one."""

    external_id: str
    former: tuple[str, ...]


def read_person(message: Mapping[str, Any]) -> Person | Alias:
    """What an identify, group or alias message tells. Raises Refusal."""
    match type_of(message):
        case "identify":
            return _identified(message)
        case "group":
            return _grouped(message)
    return _alias(message)


def _identified(message: Mapping[str, Any]) -> Person:
    person = Person(customer_of(message))
    anonymous = anonymous_of(message)
    if anonymous != person.external_id:
        person.anonymous = anonymous
    about = message.get("context")
    about = about if isinstance(about, dict) else {}
    also = about.get("traits")
    traits = _traits(message)
    if isinstance(also, dict):
        traits = also | traits
    _add(person, _facts(traits))
    person.devices = _devices(about.get("device"))
    return person


def _grouped(message: Mapping[str, Any]) -> Person:
    group = _id_of(message, "groupId")
    if group is None:
        raise Refusal(
            "group_missing", "“groupId” is missing: say which group.", field="groupId"
        )
    person = Person(customer_of(message))
    facts = [Fact(("groupId",), group, attribute="group_id")]
    facts += [
        Fact(fact.path, fact.value, attribute=f"group_{fact.attribute}")
        for fact in _plain(_traits(message))
    ]
    _add(person, facts)
    return person


def _alias(message: Mapping[str, Any]) -> Alias:
    external_id = _id_of(message, "userId")
    former = _id_of(message, "previousId")
    anonymous = anonymous_of(message)
    if external_id is None:
        raise Refusal(
            "customer_missing", "“userId” is missing: the ID to keep.", field="userId"
        )
    if former is not None:
        return Alias(external_id, (former, ANONYMOUS + former))
    if anonymous is not None:
        return Alias(external_id, (anonymous,))
    raise Refusal(
        "customer_missing",
        "“previousId” is missing: the ID they had before.",
        field="previousId",
    )


def _traits(message: Mapping[str, Any]) -> dict[str, Any]:
    traits = message.get("traits")
    if traits is None:
        return {}
    if not isinstance(traits, dict):
        raise Refusal(
            "traits_invalid",
            "“traits” is an object of names and values.",
            field="traits",
        )
    return traits


def _add(person: Person, facts: list[Fact]) -> None:
    """A trait counts once; another that goes to the same place is refused."""
    taken: set[str] = set()
    for fact in facts:
        if fact.place in taken:
            person.refused.append((fact, _collision(fact.trait, fact.place)))
        else:
            taken.add(fact.place)
            person.facts.append(fact)


def _facts(traits: Mapping[str, Any]) -> list[Fact]:
    facts: list[Fact] = []
    rest: dict[str, Any] = {}
    for name, value in traits.items():
        if name == "address" and isinstance(value, dict):
            facts += _address(value)
        elif name == "name" and isinstance(value, str):
            facts += _full_name(traits, value)
        elif (column := TRAITS.get(name) or field_code(name)) in COLUMNS:
            facts.append(_column((name,), column, value))
        else:
            rest[name] = value
    return facts + list(_plain(rest))


def _address(address: Mapping[str, Any]) -> Iterator[Fact]:
    for name, value in address.items():
        if name in ("city", "country"):
            yield _column(("address", name), name, value)
        else:
            yield from _plain({name: value}, before=("address",))


def _column(path: tuple[str, ...], column: str, value: object) -> Fact:
    read = READERS.get(column)
    value = read(value) if read else value
    unread = isinstance(value, str) and value.strip().upper() not in COUNTRIES
    if column == "country" and unread and value:
        # Names of countries are written in many ways: kept, beside the code.
        return Fact(path, value, attribute="country_name")
    return Fact(path, value, column=column)


def _full_name(traits: Mapping[str, Any], name: str) -> Iterator[Fact]:
    """A whole name is cut at its first space, unless the parts are told as well."""
    first, _, last = name.strip().partition(" ")
    told = {TRAITS.get(trait) or field_code(trait) for trait in traits}
    for column, part in (("first_name", first), ("last_name", last.strip())):
        if part and column not in told:
            yield Fact(("name",), part, column=column)


def _plain(traits: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[Fact]:
    """Traits as attributes; an object's values each by itself: company_name."""
    for name, value in traits.items():
        path = (*before, name)
        if isinstance(value, dict) and not before:
            yield from _plain(value, path)
        else:
            yield Fact(path, value, attribute="_".join(map(field_code, path)))


#: Reserved traits of Segment's, and spellings of ours → our columns.
TRAITS = {
    "firstName": "first_name",
    "firstname": "first_name",
    "lastName": "last_name",
    "lastname": "last_name",
    "birthday": "birth_date",
    "birthDate": "birth_date",
    "createdAt": "registered_at",
    "created_at": "registered_at",
    "locale": "language",
    "timezone": "time_zone",
    "timeZone": "time_zone",
}


def _date(value: object) -> object:
    """A birthday comes as a date, or as midnight of one."""
    return value[:10] if isinstance(value, str) and value[10:11] in "T " else value


def _gender(value: object) -> object:
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    return {"f": "female", "m": "male"}.get(word, word)


def _instant(value: object) -> object:
    """A time as ISO 8601, or as seconds or milliseconds since 1970."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = value / 1000 if abs(value) > 10**11 else value
            return datetime.fromtimestamp(seconds, UTC).isoformat()
        except (ValueError, OverflowError, OSError):
            return value
    try:
        return _utc(datetime.fromisoformat(str(value).strip().upper())).isoformat()
    except (ValueError, OverflowError):
        return value


READERS: Mapping[str, Callable[[object], object]] = {
    "birth_date": _date,
    "gender": _gender,
    "registered_at": _instant,
}


def _devices(device: object) -> list[dict[str, str]]:
    """The address for push that mobile libraries tell."""
    if not isinstance(device, dict):
        return []
    platform, token = device.get("type"), device.get("token")
    if not isinstance(platform, str) or not isinstance(token, str):
        return []
    if platform.lower() not in Device.Platform.values or not 0 < len(token) <= 4096:
        return []
    return [{"platform": platform.lower(), "token": token}]


def only(message: Mapping[str, Any], facts: list[Fact]) -> dict[str, Any]:
    """The same message with nothing but these traits: what is left to be fixed."""
    traits: dict[str, Any] = {}
    about = message.get("context")
    about = about if isinstance(about, dict) else {}
    sent = about.get("traits")
    sent = sent if isinstance(sent, dict) else {}
    sent = sent | _traits(message)
    for fact in facts:
        here, place = sent, traits
        *above, last = fact.path
        for name in above:
            here, place = here[name], place.setdefault(name, {})
        if last in here:
            place[last] = here[last]
    rest = {
        key: value for key, value in about.items() if key not in ("traits", "device")
    }
    return {**message, "traits": traits, "context": rest}
