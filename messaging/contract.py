"""What a text needs, against what events really carry.

Answered by rendering: the text is put together for the last real events, with the same
function that sends, and what it misses is counted. So `default`, `{% if %}` and loops
count here exactly as they will when it is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from django.db.models import Max
from django.utils import timezone

from customers.models import Attribute, Customer
from events.models import Event, EventField, EventType, Kind, SystemEvent
from messaging import language, render
from messaging.language import TemplateError, Text

#: How many events are tried, and among how many of the newest they are looked for.
EVENTS = 1_000
WINDOW = 100_000
CONTEXT = "client.eventContext."
ATTRIBUTES = "client.attributes."
ANSWERS = "client.answers."


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a text asks for and will not always get.

    `share_missing` goes from 0 to 1, and is None where no event tells. `variable` is
    empty where the whole text is meant.
    """

    variable: str
    share_missing: float | None
    message: str


@dataclass(frozen=True, slots=True)
class Sample:
    """Events of one type, and whether they are its last ones."""

    contexts: list[tuple[dict[str, Any], datetime]]
    are_last: bool

    @property
    def words(self) -> str:
        count = len(self.contexts)
        if count == 1:
            return "the only event"
        return f"the last {count:,} events" if self.are_last else f"{count:,} events"


def check(texts: Sequence[str], event_name: str) -> list[Finding]:
    """What these texts will lack for events of this name. Empty: nothing.

    `event_name` may be empty for a text that no event starts. Reads at most 1,000
    events. Raises TemplateError for a text that is not good Liquid.
    """
    parsed = [language.parse(text) for text in texts if text.strip()]
    used = sorted({name for text in parsed for name in text.variables()})
    findings = _unknown(used)
    if not event_name or not any(name.startswith("client.event") for name in used):
        return findings
    event_type = EventType.objects.filter(name=event_name).first()
    sample = _sample(event_type) if event_type else Sample([], are_last=True)
    if sample.contexts:
        return findings + _tried(parsed, used, event_name, sample)
    return findings + _untried(used, event_name, event_type)


def _unknown(used: Iterable[str]) -> list[Finding]:
    """Variables that no customer and no event can have."""
    findings = [
        Finding(name, 1.0, complaint)
        for name in used
        if (complaint := render.unknown(name))
    ]
    attributes = {
        name.removeprefix(ATTRIBUTES).partition(".")[0]: name
        for name in used
        if name.startswith(ATTRIBUTES)
    }
    if attributes:
        declared = Attribute.objects.filter(code__in=attributes)
        known = set(declared.values_list("code", flat=True))
        findings += [
            Finding(name, 1.0, f"There is no attribute “{code}”.")
            for code, name in attributes.items()
            if code not in known
        ]
    return findings


def _untried(
    used: Sequence[str], event_name: str, event_type: EventType | None
) -> list[Finding]:
    findings = [
        Finding("", None, f"No event of the type “{event_name}” has arrived yet.")
    ]
    declared = set(
        EventField.objects.filter(type=event_type).values_list("code", flat=True)
        if event_type
        else ()
    )
    if declared:
        findings += [
            Finding(name, None, f"“{event_name}” has no field “{code}”.")
            for name in used
            if (code := _code(name)) and not _is_declared(code, declared)
        ]
    return findings


def _tried(
    texts: Sequence[Text], used: Sequence[str], event_name: str, sample: Sample
) -> list[Finding]:
    lacked: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    for context, occurred_at in sample.contexts:
        client = _someone(used, context, event_name, occurred_at)
        missing: set[str] = set()
        for text in texts:
            try:
                missing.update(text.render({"client": client})[1])
            except TemplateError as error:
                broken[error.message] += 1
        lacked.update(missing)
    total = len(sample.contexts)
    findings = [
        Finding(
            name, count / total, f"`{_short(name)}` is missing in {_of(count, sample)}."
        )
        for name, count in lacked.most_common()
    ]
    findings += [
        Finding("", count / total, f"In {_of(count, sample)} it fails: {complaint}")
        for complaint, count in broken.most_common(3)
    ]
    # A default hides a misspelt name for ever, so it is told here.
    for name in used:
        code = _code(name)
        if code and name not in lacked and not _is_carried(code, sample):
            words = f"`{code}` is in none of {sample.words}."
            if total == 1:
                words = f"`{code}` is not in {sample.words}."
            findings.append(Finding(name, 1.0, words))
    return findings


def _sample(event_type: EventType) -> Sample:
    """The last events of a type. Bounded, however rare the type and big the table."""
    model = SystemEvent if event_type.kind == Kind.SYSTEM else Event
    rows = model._default_manager.all()
    newest = rows.aggregate(newest=Max("pk"))["newest"] or 0
    recent = rows.filter(pk__gt=newest - WINDOW, type_id=event_type.pk)
    last = list(recent.order_by("-pk").values_list("context", "occurred_at")[:EVENTS])
    if len(last) == EVENTS or newest <= WINDOW:
        return Sample(last, are_last=True)
    anywhere = rows.filter(type_id=event_type.pk).order_by()
    return Sample(
        list(anywhere.values_list("context", "occurred_at")[:EVENTS]), are_last=False
    )


def _someone(
    used: Iterable[str], context: dict[str, Any], event_name: str, occurred_at: datetime
) -> dict[str, Any]:
    """A customer of whom everything is known, since only the event is in question."""
    customer = Customer(
        external_id="C-1",
        first_name="Anna",
        last_name="Berg",
        email="anna@example.com",
        phone="+4915112345678",
        birth_date=date(1990, 5, 1),
        gender=Customer.Gender.FEMALE,
        city="Berlin",
        country="DE",
        language="en",
        time_zone="Europe/Berlin",
        registered_at=timezone.now(),
        attributes={
            name.removeprefix(ATTRIBUTES): "1"
            for name in used
            if name.startswith(ATTRIBUTES)
        },
    )
    return render.facts(
        customer,
        context=context,
        event_name=event_name,
        occurred_at=occurred_at,
        answers=_answered(used),
    )


def _answered(used: Iterable[str]) -> dict[str, Any]:
    """Answers that hold whatever is asked of them."""
    answers: dict[str, Any] = {}
    for name in sorted(used, reverse=True):
        if name.startswith(ANSWERS):
            inside = answers
            *outer, last = name.removeprefix(ANSWERS).split(".")
            for step in outer:
                inside = inside.setdefault(step, {})
            inside.setdefault(last, "1")
    return answers


def _code(variable: str) -> str:
    """The field code behind a variable of the context; empty for any other."""
    return variable.removeprefix(CONTEXT) if variable.startswith(CONTEXT) else ""


def _is_declared(code: str, declared: set[str]) -> bool:
    """Is it a field, the inside of one, or what encloses one?"""
    steps = code.split(".")
    return any(
        ".".join(steps[:length]) in declared for length in range(1, len(steps) + 1)
    ) or any(field.startswith(f"{code}.") for field in declared)


def _is_carried(code: str, sample: Sample) -> bool:
    return any(_has(context, code.split(".")) for context, _ in sample.contexts)


def _has(value: Any, steps: list[str]) -> bool:
    for step in steps:
        if isinstance(value, list):
            return True
        if not isinstance(value, dict) or step not in value:
            return False
        value = value[step]
    return True


def _short(variable: str) -> str:
    return variable.removeprefix(CONTEXT)


def _of(count: int, sample: Sample) -> str:
    total = len(sample.contexts)
    if count == total:
        return sample.words if total == 1 else f"all of {sample.words}"
    share = 100 * count / total
    words = f"{share:.1f}".removesuffix(".0") if share >= 0.1 else "less than 0.1"
    return f"{words} % of {sample.words}"
