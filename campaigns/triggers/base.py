"""What every trigger has: its form, its JSON, words for it, and what hinders it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, ClassVar, TypeVar

from django import forms

from campaigns.models import Version
from events.models import EventType, Kind
from segments import rules
from segments.models import Segment
from smartcomm.core.errors import Invalid, Several, UserError

T = TypeVar("T")
#: A trigger as the JSON of a campaign has it, complete.
Told = dict[str, Any]
MAX_AGE_HOURS = 24 * 365 * 10


class TriggerInvalid(Invalid):
    """A trigger that is not understood. `field` is the place in it."""

    code = "campaign_invalid"


@dataclass(frozen=True, slots=True)
class Stored:
    """A trigger as the columns of a version have it."""

    event_name: str
    where: list[Any]
    max_age_hours: int
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A rule that those must meet whom a planned time is for, and by which clock."""

    #: For programs: see campaigns.why.
    because: str
    #: Said of who does not meet it: “their birth date was not reached”.
    unless: str
    rule: rules.Rule
    #: None: by the clock of when the broadcast comes to the customer.
    clock: datetime | None = None


class Trigger(ABC):
    """One kind of trigger. There is one object of each; it has no state."""

    #: The word in the JSON.
    name: ClassVar[str]
    #: For the picture; where one chooses it stands `Version.Trigger`.
    label: ClassVar[str]
    #: A Material symbol.
    symbol: ClassVar[str]
    #: One line for the marketer who chooses what starts a campaign.
    hint: ClassVar[str]
    #: Whose events start it: a customer's, or those that concern all.
    on: ClassVar[Kind]
    #: Starts by the clock, see campaigns.planned; events do not start it.
    is_planned: ClassVar[bool] = False
    #: All that its events say, code → label; None: whatever a source sends.
    carries: ClassVar[Mapping[str, str] | None] = None
    default_hours: ClassVar[int] = 72
    #: `initial` is a trigger; `told()` of a valid one is a trigger again, but for
    #: kind and hours. Kinds with the same form share its fields on the page.
    form: ClassVar[type[TriggerFields]]

    @abstractmethod
    def clean(self, told: Mapping[str, Any]) -> Told:
        """The trigger, checked and complete. Raises Invalid, or Several."""

    @abstractmethod
    def store(self, told: Told) -> Stored:
        """The columns of a trigger that is clean."""

    @abstractmethod
    def told(self, version: Version) -> Told:
        """The trigger that the columns say."""

    @abstractmethod
    def describe(self, told: Mapping[str, Any]) -> str:
        """What it is about, in a few words, for the picture."""

    @abstractmethod
    def when(self, told: Mapping[str, Any]) -> str:
        """The same as half a sentence that says when it starts."""

    @abstractmethod
    def meaning(self, told: Mapping[str, Any]) -> list[str]:
        """Sentences for whoever is about to publish."""

    @abstractmethod
    def event_name(self, told: Mapping[str, Any]) -> str:
        """The name of the events that runs are started with; empty: none is chosen."""

    def segments(self, config: Mapping[str, Any]) -> set[int]:
        """The segments that must not be deleted under it."""
        return set()

    def check(self, version: Version) -> Iterator[UserError | str]:
        """What stands in the way of publishing (UserError), what is to be known."""
        yield from ()

    def prepare(self, version: Version) -> EventType:
        """Called when a version is published: the type of the events it starts with."""
        found, _ = EventType.objects.get_or_create(
            name=version.event_name, defaults={"kind": self.on}
        )
        return found


class TriggerFields(forms.Form):
    """The fields of one kind of trigger."""

    template: ClassVar[str] = "campaigns/panels/triggers/plain.html"

    def told(self) -> dict[str, Any]:
        """What was filled in, as the JSON has it, to be cleaned by the trigger."""
        raise NotImplementedError


class Reading:
    """What is read of a trigger, place by place; all errors are told at once."""

    def __init__(self, told: Mapping[str, Any], known: set[str]) -> None:
        self.told = told
        self.errors: list[UserError] = [
            TriggerInvalid(
                f"“{key}” is not understood here; known are "
                f"{', '.join(sorted({'kind', *known}))}.",
                field=str(key),
            )
            for key in told
            if key not in {"kind", *known}
        ]

    def take(self, read: Callable[..., T], *more: Any) -> T | None:
        """What `read` makes of it; None where that is wrong."""
        try:
            return read(self.told, *more)
        except UserError as error:
            self.errors.append(error)
            return None

    def end(self) -> None:
        """Raise Several if anything was wrong."""
        if self.errors:
            raise Several(self.errors)


def read_hours(told: Mapping[str, Any], default: int) -> int:
    hours = told.get("max_age_hours", default)
    if type(hours) is not int or not 0 < hours <= MAX_AGE_HOURS:
        raise TriggerInvalid(
            f"“max_age_hours” is a whole number from 1 to {MAX_AGE_HOURS}.",
            field="max_age_hours",
        )
    return hours


def read_day(value: object, field: str) -> date:
    try:
        found = date.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = None
    if found is None or found.isoformat() != value:
        raise TriggerInvalid(f"“{field}” is a day such as 2026-12-24.", field=field)
    return found


def read_segment(told: Mapping[str, Any]) -> int:
    """The number of a segment. Whether it is there is asked when it is published."""
    pk = told.get("segment")
    if type(pk) is not int or not 0 < pk < 2**63:
        raise TriggerInvalid("“segment” is the number of a segment.", field="segment")
    return pk


def read_segment_or_all(told: Mapping[str, Any]) -> int | None:
    return None if told.get("segment") is None else read_segment(told)


def segment_named(pk: int | None) -> str:
    """“VIP”, or words for one that is not there."""
    if pk is None:
        return "a segment that is not chosen yet"
    found = Segment.objects.filter(pk=pk).values_list("name", flat=True).first()
    return f"“{found}”" if found else "a segment that is gone"


def check_segment(pk: int | None) -> Iterator[UserError]:
    """A segment that is asked for is there, and not archived."""
    if pk is None:
        return
    segment = Segment.objects.filter(pk=pk).first()
    if segment is None or segment.is_archived:
        state = "archived" if segment else "gone"
        yield TriggerInvalid(
            f"The segment that the trigger asks for is {state}. Choose another one.",
            field="trigger.segment",
        )


def segment_choices() -> list[tuple[int, str]]:
    found = Segment.objects.filter(archived_at=None).order_by("name")
    return list(found.values_list("pk", "name"))
