"""Made-up people for the households of the study, the same ones every time.

Everything follows from the household's number by a hash, so that a load that was
interrupted goes on with the same people. Addresses are at example.com and its
sisters, phones from the ranges that regulators keep for films and books: nobody
real can be reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from hashlib import blake2b
from typing import Any, TypeVar

from smartcomm.site.demo.study import Household

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    city: str
    country: str
    language: str
    time_zone: str
    #: A phone is this and a number of so many digits.
    prefix: str
    digits: int


EAST, CENTRAL = "America/New_York", "America/Chicago"
MOUNTAIN, WEST = "America/Denver", "America/Los_Angeles"

#: A hundred households live in each, so a city is named as often as it is large.
PLACES = [
    Place("New York", "US", "en", EAST, "+121255501", 2),
    Place("New York", "US", "es", EAST, "+171855501", 2),
    Place("Boston", "US", "en", EAST, "+161755501", 2),
    Place("Philadelphia", "US", "en", EAST, "+121555501", 2),
    Place("Atlanta", "US", "en", EAST, "+140455501", 2),
    Place("Chicago", "US", "en", CENTRAL, "+131255501", 2),
    Place("Houston", "US", "es", CENTRAL, "+171355501", 2),
    Place("Austin", "US", "en", CENTRAL, "+151255501", 2),
    Place("Denver", "US", "en", MOUNTAIN, "+130355501", 2),
    Place("Los Angeles", "US", "en", WEST, "+121355501", 2),
    Place("Los Angeles", "US", "es", WEST, "+132355501", 2),
    Place("San Francisco", "US", "en", WEST, "+141555501", 2),
    Place("Portland", "US", "en", WEST, "+150355501", 2),
    Place("London", "GB", "en", "Europe/London", "+442079460", 3),
    Place("London", "GB", "en", "Europe/London", "+442079460", 3),
    Place("Manchester", "GB", "en", "Europe/London", "+441614960", 3),
    Place("Edinburgh", "GB", "en", "Europe/London", "+441314960", 3),
    Place("Leeds", "GB", "en", "Europe/London", "+441134960", 3),
    Place("Paris", "FR", "fr", "Europe/Paris", "+3319900", 4),
    Place("Paris", "FR", "fr", "Europe/Paris", "+3319900", 4),
    Place("Lyon", "FR", "fr", "Europe/Paris", "+3346571", 4),
    Place("Berlin", "DE", "de", "Europe/Berlin", "+4917139200", 2),
    Place("Hamburg", "DE", "de", "Europe/Berlin", "+49176040690", 2),
    Place("Chicago", "US", "en", CENTRAL, "+177355501", 2),
    Place("Seattle", "US", "en", WEST, "+120655501", 2),
    Place("Miami", "US", "es", EAST, "+130555501", 2),
]

#: By language: women, men, families.
NAMES = {
    "en": """
        Alice Amelia Ava Charlotte Chloe Claire Diana Ella Emily Emma Evelyn
        Grace Hannah Isla Jane Julia Karen Kate Laura Lily Lucy Megan Mia
        Nancy Nora Olivia Rachel Rose Ruth Sarah Sophie Susan

        Adam Andrew Arthur Ben Charles Daniel David Edward Ethan Frank
        George Harry Henry Jack Jacob James John Joseph Leo Liam Mark
        Michael Noah Oliver Oscar Paul Peter Robert Sam Simon Thomas William

        Adams Allen Baker Bennett Brooks Brown Campbell Carter Clark Collins
        Cooper Davies Edwards Evans Fisher Foster Graham Gray Green Hall
        Harris Hill Hughes Jackson Johnson Jones King Lewis Marshall Miller
        Mitchell Moore Morgan Murray Nelson Palmer Parker Phillips Price
        Reed Roberts Robinson Scott Shaw Smith Stewart Taylor Thompson
        Turner Walker Ward Watson White Williams Wood Young
    """,
    "es": """
        Alba Ana Camila Carmen Elena Inés Isabel Laura Lucía María Marta
        Paula Rosa Sara Sofía Valeria

        Alejandro Andrés Carlos Diego Eduardo Fernando Hugo Javier Jorge
        José Juan Luis Manuel Mateo Miguel Pablo

        Aguilar Castillo Castro Cruz Delgado Díaz Fernández Flores García
        Gómez González Gutiérrez Hernández Herrera Jiménez López Martínez
        Mendoza Morales Navarro Ortiz Peña Pérez Ramírez Ramos Reyes Rivera
        Rojas Romero Ruiz Sánchez Santos Soto Torres Vargas Vega
    """,
    "fr": """
        Agathe Anaïs Camille Céline Chloé Claire Élise Emma Inès Jeanne
        Julie Léa Louise Manon Margaux Zoé

        Adrien Alexandre Antoine Baptiste Clément Étienne François Gabriel
        Hugo Jules Louis Lucas Mathieu Nicolas Paul Théo

        Bernard Blanc Bonnet Dubois Dupont Durand Fabre Fontaine Fournier
        Garnier Gauthier Girard Henry Lambert Laurent Lefèvre Leroy Marchand
        Martin Mercier Michel Moreau Morel Perrin Petit Renard Richard
        Robert Rousseau Roux Simon Vidal
    """,
    "de": """
        Anna Charlotte Clara Emma Frieda Greta Hanna Johanna Julia Katharina
        Lea Lena Marie Mia Paula Sophie

        Anton Ben Elias Emil Felix Finn Jakob Jan Jonas Karl Leon Lukas Max
        Moritz Paul Tim

        Bauer Becker Berg Braun Fischer Frank Hartmann Herrmann Hoffmann
        Huber Keller Klein Koch König Krause Krüger Lange Lehmann Maier
        Meyer Müller Neumann Richter Schmidt Schneider Schröder Schulz Vogel
        Wagner Weber Wolf Zimmermann
    """,
}

ATTRIBUTES = [
    {"code": "age_group", "label": "Age group", "type": "string"},
    {"code": "income", "label": "Household income", "type": "string"},
    {"code": "household_size", "label": "People in the household", "type": "number"},
    {"code": "kids_count", "label": "Children in the household", "type": "number"},
    {"code": "marital_status", "label": "Marital status", "type": "string"},
    {"code": "homeowner", "label": "Owns the home", "type": "boolean"},
    {"code": "tier", "label": "Loyalty tier", "type": "string"},
    {"code": "card_since", "label": "Loyalty card since", "type": "date"},
    {"code": "home_store", "label": "Store visited most", "type": "number"},
]

AGES = {
    "19-24": (19, 24),
    "25-34": (25, 34),
    "35-44": (35, 44),
    "45-54": (45, 54),
    "55-64": (55, 64),
    "65+": (65, 84),
}


def external_id(household: int) -> str:
    return f"H-{household}"


def customer(household: Household, *, last_day: date) -> dict[str, Any]:
    """The household as a customer, in the shape of the API.

    Ages are those on `last_day`, the last day of the shifted data.
    """
    number = household.number
    place = _place(number)
    gender, first_name, last_name = _name(number, place.language)
    card_since = last_day - timedelta(days=400 + _roll(number, "card", 1500))
    person: dict[str, Any] = {
        "external_id": external_id(number),
        "first_name": first_name,
        "last_name": last_name,
        "gender": gender,
        "city": place.city,
        "country": place.country,
        "language": place.language,
        "time_zone": place.time_zone,
        "registered_at": _morning(card_since, number),
        "email": _email(number, first_name, last_name),
        "phone": _phone(number, place),
        "birth_date": _birth_date(household, last_day),
        "attributes": _attributes(household, card_since),
        "consents": _consents(number),
    }
    if _has_device(number):
        person["devices"] = [_device(number)]
    return {key: value for key, value in person.items() if value not in ("", None)}


def _place(number: int) -> Place:
    return PLACES[_shuffled(number) // 100]


def _shuffled(number: int) -> int:
    """One-to-one from household numbers, which end at 2,500, to 0...2,502."""
    return number * 1009 % 2503


def _name(number: int, language: str) -> tuple[str, str, str]:
    women, men, families = _names(language)
    family = _pick(number, "family", families)
    share = _roll(number, "gender", 100)
    if share < 52:
        return "female", _pick(number, "first", women), family
    if share < 96:
        return "male", _pick(number, "first", men), family
    return "", _pick(number, "first", women + men), family


def _email(number: int, first_name: str, last_name: str) -> str:
    share = _roll(number, "email", 100)
    if share < 7:
        return ""
    local = f"{_ascii(first_name)}.{_ascii(last_name)}{number}"
    if share < 9:
        return f"{local}@example"
    domain = _pick(number, "domain", ("example.com", "example.com", "example.org"))
    return f"{local}@{domain}"


def _phone(number: int, place: Place) -> str:
    share = _roll(number, "phone", 100)
    if share < 14:
        return ""
    if share < 17:
        return place.prefix[:8]
    return f"{place.prefix}{_shuffled(number) % 10**place.digits:0{place.digits}}"


def _birth_date(household: Household, last_day: date) -> str | None:
    if household.age not in AGES or _roll(household.number, "birth", 100) >= 70:
        return None
    low, high = AGES[household.age]
    # Half a year inside the group, so that no birthday moves anyone out of it.
    days = low * 365.25 + 183 + _roll(household.number, "age", (high - low) * 365)
    return (last_day - timedelta(days=days)).isoformat()


def _attributes(household: Household, card_since: date) -> dict[str, Any]:
    known = {
        "age_group": household.age,
        "income": household.income,
        # "5+" and "3+" count as the least they can mean.
        "household_size": _number(household.size),
        "kids_count": _number(household.kids),
        "marital_status": household.marital_status,
        "homeowner": {"Homeowner": True, "Renter": False}.get(household.home),
        "tier": household.tier,
        "card_since": card_since.isoformat(),
        "home_store": household.home_store,
    }
    return {code: value for code, value in known.items() if value not in ("", None)}


def _consents(number: int) -> dict[str, bool]:
    """Yes, no, or no answer, for each channel."""
    answers = {"email": (78, 90), "sms": (56, 75)}
    if _has_device(number):
        answers["push"] = (85, 95)
    consents = {}
    for channel, (yes, no) in answers.items():
        share = _roll(number, f"consent {channel}", 100)
        if share < no:
            consents[channel] = share < yes
    return consents


def _has_device(number: int) -> bool:
    return _roll(number, "device", 100) < 38


def _device(number: int) -> dict[str, str]:
    platform = _pick(number, "platform", ("android", "android", "ios", "ios", "web"))
    token = blake2b(f"{number} token".encode(), digest_size=24).hexdigest()
    return {"platform": platform, "token": f"demo-{token}"}


def _morning(day: date, number: int) -> str:
    seconds = 7 * 3600 + _roll(number, "hour", 12 * 3600)
    moment = datetime.combine(day, time(), UTC) + timedelta(seconds=seconds)
    return moment.isoformat()


def _number(text: str) -> int | None:
    return int(text.rstrip("+")) if text else None


@cache
def _names(language: str) -> tuple[list[str], list[str], list[str]]:
    women, men, families = NAMES[language].split("\n\n")
    return women.split(), men.split(), families.split()


_ASCII = str.maketrans("áàâäéèêëíïñóôöúüçÉÁ", "aaaaeeeeiinooouucea")


def _ascii(name: str) -> str:
    return name.translate(_ASCII).replace("ß", "ss").lower()


def _pick(number: int, topic: str, choices: list[T] | tuple[T, ...]) -> T:
    return choices[_roll(number, topic, len(choices))]


def _roll(number: int, topic: str, sides: int) -> int:
    """A number from 0 up to `sides`, always the same for a household and a topic."""
    digest = blake2b(f"{number} {topic}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % sides
