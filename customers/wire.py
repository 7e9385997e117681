"""A customer as the master system tells it: read whole, or refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Annotated, Any
from zoneinfo import available_timezones

import msgspec

from customers.attributes import MAX_ITEMS, MAX_TEXT, check_code, type_of
from customers.devices import MAX_DEVICES
from customers.models import Channel, Customer, Device
from smartcomm.core.errors import Invalid, UserError
from smartcomm.core.strict_json import Unfit

MAX_ATTRIBUTES = 100

MAX_ORIGIN = 150

CHANNELS = frozenset(Channel.values)
PLATFORMS = frozenset(Device.Platform.values)

#: What an answer shows beside what may be told. Sent back to us, it says nothing.
READ_ONLY = frozenset(
    {
        "email_is_valid",
        "phone_is_valid",
        "is_stub",
        "created_at",
        "updated_at",
        "former_ids",
        "consent_details",
        "consent_history",
        "warnings",
    }
)

#: What is told beside the texts and dates.
STRUCTURE = frozenset({"external_id", "attributes", "consents", "devices"})

Instant = Annotated[datetime, msgspec.Meta(tz=True)]

#: Control characters, and halves of surrogate pairs, which no text can hold.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")

# ISO 3166-1, and XK, which everybody uses for Kosovo.
COUNTRIES = frozenset(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN
    BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ
    DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL
    GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM
    JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME
    MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP
    NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD
    SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO
    TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Answer:
    """What a customer answered for a channel, or for one mailing category on it.

    `granted` of None: the answer is to be forgotten. `at` is when they answered; None
    if all we know is that it holds now.
    """

    channel: str
    granted: bool | None
    category: str = ""
    at: datetime | None = None
    origin: str = ""


@dataclass
class Change:
    """What is told about one customer: only what is named here changes.

    `columns` holds the e-mail and the phone as they were written; they are
    normalised once the customer's country is known. An attribute of None is
    forgotten. Devices are token → platform, or None for one that is gone.
    """

    external_id: str
    columns: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    consents: list[Answer] = field(default_factory=list)
    devices: dict[str, str | None] = field(default_factory=dict)

    def then(self, later: Change) -> None:
        """Add what was told later about the same customer; the later word counts."""
        self.columns = self.columns | later.columns
        self.attributes = self.attributes | later.attributes
        self.consents = self.consents + later.consents
        self.devices = self.devices | later.devices


def read_change(
    data: object, *, now: datetime
) -> tuple[Change | None, list[UserError]]:
    """Read one customer; without a change when anything in it is wrong."""
    if isinstance(data, Unfit):
        return None, [Invalid(data.message, field=data.field, code=data.code)]
    if not isinstance(data, dict):
        return None, [Invalid("A customer is a JSON object.", code="not_an_object")]
    errors: list[UserError] = []
    change = Change("")
    for name, value in data.items():
        try:
            _read(change, name, value, now)
        except UserError as error:
            errors.extend(getattr(error, "errors", [error]))
    if "external_id" not in data:
        errors.insert(
            0,
            Invalid("Tell the external_id.", field="external_id", code="required"),
        )
    return (None if errors else change), errors


def check_external_id(value: object, name: str = "external_id") -> str:
    """The ID a customer is known by outside, or Invalid."""
    if not isinstance(value, str):
        raise _wrong(name, "a text of 1 to 128 characters", code="type_wrong")
    if value.isprintable() and value and not value.isspace() and len(value) <= 128:
        return value  # Nearly always, and sooner known than the rest.
    if not value.strip() or len(value) > 128 or _CONTROL.search(value):
        raise _wrong(name, "a text of 1 to 128 characters without control characters")
    return value


def _read(change: Change, name: str, value: object, now: datetime) -> None:
    if name == "external_id":
        change.external_id = check_external_id(value)
    elif name in COLUMNS:
        change.columns[name] = COLUMNS[name](name, value, now)
    elif name == "attributes":
        change.attributes = _attributes(value)
    elif name == "consents":
        change.consents = _consents(value, now)
    elif name == "devices":
        change.devices = _devices(value)
    elif name not in READ_ONLY:
        raise Invalid(
            f"“{name}” is not known. What is yours alone belongs into “attributes”.",
            field=name,
            code="key_unknown",
        )


Reader = Callable[[str, object, datetime], Any]


def _text(most: int) -> Reader:
    def read(name: str, value: object, now: datetime) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            raise _wrong(name, "a text, or null", code="type_wrong")
        text = value.strip()
        if len(text) > most:
            raise _wrong(name, f"at most {most} characters long", code="too_long")
        if _CONTROL.search(text):
            raise _wrong(name, "free of control characters and line breaks")
        return text

    return read


def _choice(known: Callable[[], Any], words: str, *, upper: bool = False) -> Reader:
    text = _text(64)

    def read(name: str, value: object, now: datetime) -> str:
        chosen = str(text(name, value, now))
        chosen = chosen.upper() if upper else chosen
        if chosen and chosen not in known():
            raise _wrong(name, words)
        return chosen

    return read


def _language(name: str, value: object, now: datetime) -> str:
    text = str(_text(35)(name, value, now)).replace("_", "-")
    if text and not _LANGUAGE.fullmatch(text):
        raise _wrong(name, "a language as in BCP 47: de, en-GB")
    first, *rest = text.split("-")
    return "-".join(
        [first.lower(), *(part.upper() if len(part) == 2 else part for part in rest)]
    )


def _birth_date(name: str, value: object, now: datetime) -> date | None:
    if value is None or value == "":
        return None
    try:
        born = msgspec.convert(value, date)
    except ValueError as error:
        raise _wrong(name, "a date, as in 1990-05-01") from error
    # It may be tomorrow already where they live.
    if born.year < 1850 or born > now.date() + timedelta(days=1):
        raise _wrong(name, "a date between 1850 and today")
    return born


def _instant(name: str, value: object, now: datetime) -> datetime | None:
    if value is None or value == "":
        return None
    try:
        moment = msgspec.convert(value, Instant).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise _wrong(
            name, "a time with its offset (RFC 3339), as in 2024-01-02T10:00:00Z"
        ) from error
    if moment.year < 1900 or moment > now + timedelta(minutes=5):
        raise _wrong(name, "a time between 1900 and now")
    return moment


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


COLUMNS: Mapping[str, Reader] = {
    "first_name": _text(150),
    "last_name": _text(150),
    "email": _text(254),
    "phone": _text(64),
    "birth_date": _birth_date,
    "gender": _choice(lambda: Customer.Gender.values, "female, male or other"),
    "city": _text(150),
    "country": _choice(
        lambda: COUNTRIES, "two letters, as in ISO 3166: DE, FR, GB", upper=True
    ),
    "language": _language,
    "time_zone": _choice(_time_zones, "a name of the IANA list: Europe/Berlin"),
    "registered_at": _instant,
}


def _attributes(value: object) -> dict[str, Any]:
    values = _object("attributes", value)
    if len(values) > MAX_ATTRIBUTES:
        raise _wrong("attributes", f"at most {MAX_ATTRIBUTES} at once", code="too_many")
    for code, one in values.items():
        check_code(code)
        place = f"attributes.{code}"
        if code in COLUMNS or code in READ_ONLY or code in STRUCTURE:
            raise Invalid(
                f"“{code}” is told of every customer: beside “attributes”, not in it.",
                field=place,
                code="attribute_code_taken",
            )
        if one is not None and type_of(one) is None:
            raise _wrong(
                place,
                "one value: a text, a number, true or false, a date, or null; or a "
                "list of them",
                code="type_wrong",
            )
        if isinstance(one, list) and len(one) > MAX_ITEMS:
            raise _wrong(place, f"at most {MAX_ITEMS} values", code="too_long")
        for single in one if isinstance(one, list) else [one]:
            _check_attribute(place, single)
    return values


def _check_attribute(place: str, one: object) -> None:
    if isinstance(one, str) and len(one) > MAX_TEXT:
        raise _wrong(place, f"at most {MAX_TEXT} characters long", code="too_long")
    if isinstance(one, str) and _UNSTORABLE.search(one):
        raise _wrong(place, "free of NUL characters")
    if isinstance(one, float) and not math.isfinite(one):
        raise _wrong(place, "a number that is finite")


def _consents(value: object, now: datetime) -> list[Answer]:
    answers = []
    for name, told in _object("consents", value).items():
        place = f"consents.{name}"
        if name != "categories":
            answers.append(_answer(place, name, told, now))
            continue
        for code, by_channel in _object(place, told).items():
            of_category = f"{place}.{code}"
            for channel, one in _object(of_category, by_channel).items():
                answer = _answer(f"{of_category}.{channel}", channel, one, now)
                answers.append(replace(answer, category=code))
    return answers


def _answer(place: str, channel: str, told: object, now: datetime) -> Answer:
    if channel not in CHANNELS:
        raise Invalid(
            f"“{channel}” is not a channel. There are {', '.join(Channel.values)}; "
            "mailing categories belong into “categories”.",
            field=place,
            code="key_unknown",
        )
    if told is None or isinstance(told, bool):
        return Answer(channel, told)
    if not isinstance(told, dict):
        raise _wrong(
            place,
            "true, false, null to forget the answer, or an object with “granted”, “at” "
            "and “origin”",
            code="type_wrong",
        )
    for name in told:
        if name not in ("granted", "at", "origin"):
            raise Invalid(
                f"“{name}” is not known of a consent. There are granted, at, origin.",
                field=f"{place}.{name}",
                code="key_unknown",
            )
    granted = told.get("granted")
    if not isinstance(granted, bool):
        raise _wrong(f"{place}.granted", "true or false", code="type_wrong")
    at = _instant(f"{place}.at", told.get("at"), now)
    origin = _text(MAX_ORIGIN)(f"{place}.origin", told.get("origin"), now)
    # A clock that is ahead must not make an answer that nobody can take back.
    return Answer(channel, granted, at=min(at, now) if at else None, origin=origin)


def _devices(value: object) -> dict[str, str | None]:
    if not isinstance(value, list):
        raise _wrong("devices", "a list", code="type_wrong")
    if len(value) > MAX_DEVICES:
        raise _wrong("devices", f"at most {MAX_DEVICES} at once", code="too_many")
    devices: dict[str, str | None] = {}
    for index, device in enumerate(value):
        place = f"devices.{index}"
        told = _object(place, device)
        for name in told:
            if name not in ("platform", "token", "remove"):
                raise Invalid(
                    f"“{name}” is not known of a device.",
                    field=f"{place}.{name}",
                    code="key_unknown",
                )
        token, gone = told.get("token"), told.get("remove", False)
        platform = told.get("platform")
        if not isinstance(gone, bool):
            raise _wrong(f"{place}.remove", "true or false", code="type_wrong")
        known = isinstance(platform, str) and platform in PLATFORMS
        if not known and not (gone and platform is None):
            raise _wrong(f"{place}.platform", "android, ios or web")
        if not isinstance(token, str) or not 0 < len(token) <= 4096:
            raise _wrong(f"{place}.token", "a text of 1 to 4096 characters")
        if _CONTROL.search(token):
            raise _wrong(f"{place}.token", "free of control characters")
        devices[token] = None if gone else str(platform)
    return devices


def _object(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(name, "an object, in braces", code="type_wrong")
    return value


def _wrong(name: str, should_be: str, *, code: str = "value_invalid") -> Invalid:
    return Invalid(f"“{name}” must be {should_be}.", field=name, code=code)
