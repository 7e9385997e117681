"""What every action has: its form, its ways out, what it does, and words for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from django import forms

from campaigns.actions.checks import Draft, error
from campaigns.graph import Problem
from campaigns.models import Run, Step
from campaigns.unseen import unseen
from smartcomm.core.errors import Invalid

Config = dict[str, Any]
#: Where answers of systems outside stand in the context of a run: answers.STEP.field.
ANSWERS = "answers"
#: The action whose steps have answers.
ASKING = "call_webhook"


@dataclass(frozen=True, slots=True)
class Started:
    """A run, with the event that started it."""

    run: Run
    event_name: str
    occurred_at: datetime
    context: Mapping[str, Any]
    #: The actions of the steps it has left in this transaction, in their order.
    passed: list[str] = field(default_factory=list)
    #: What systems outside have answered, by step; in `context` under “answers”, too.
    answers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_event(self) -> Mapping[str, Any]:
        """The context without the answers."""
        if not self.answers:
            return self.context
        return {code: value for code, value in self.context.items() if code != ANSWERS}


@dataclass(frozen=True, slots=True)
class Go:
    """Leave the step by this way."""

    way: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Stay at the step, and look again at this time."""

    moment: datetime


@dataclass(frozen=True, slots=True)
class WaitForMessage:
    """Stay at the step until its message has been sent, or not."""


@dataclass(frozen=True, slots=True)
class WaitForAnswer:
    """Stay at the step until its call of a system outside has ended."""


Outcome = Go | WaitUntil | WaitForMessage | WaitForAnswer


class ConfigInvalid(Invalid):
    """The configuration of a step is not understood. `field` is the place in it."""

    code = "config_invalid"


class Action(ABC):
    """One kind of box in a drawing. There is one object of each; it has no state."""

    #: The word in the JSON.
    name: ClassVar[str]
    label: ClassVar[str]
    #: A Material symbol.
    symbol: ClassVar[str]
    #: One line for the marketer who chooses an action.
    hint: ClassVar[str]
    #: It only waits or parts, and brings nothing about by itself.
    is_idle: ClassVar[bool] = False
    #: It keeps a run until a time that its configuration tells, and asks for nothing.
    waits_by_clock: ClassVar[bool] = False
    #: What is typed into its form may be `$field_code` of the event.
    takes_values: ClassVar[bool] = False
    #: What sentences about publishing call such a step.
    noun: ClassVar[str] = "step"
    #: Way out → label.
    way_labels: ClassVar[Mapping[str, str]]
    #: Over the config: `initial` is a config, `cleaned_data` becomes one.
    form: ClassVar[type[forms.Form]]

    def ways(self, config: Config) -> tuple[str, ...]:
        """The ways out of a step with this configuration."""
        return tuple(self.way_labels)

    def event_codes(self, config: Config) -> set[str]:
        """The fields of the event that started the run, by path, that it needs."""
        return set()

    def all_codes(self, config: Config) -> set[str]:
        """The same, and those that it can do without."""
        return self.event_codes(config)

    def answers_asked(self, config: Config) -> set[str]:
        """The steps whose answers it speaks of."""
        return asked_of(self.event_codes(config))

    def declares(self, config: Config) -> set[str]:
        """The names of customers' events that exist once it is published."""
        return set()

    def check(self, step: Step, draft: Draft) -> Iterator[Problem]:
        """What is wrong with this step where it stands, before it is published.

        An action that has more to ask says so first, and then asks this.
        """
        yield from self._check_answers(step, draft)
        if draft.carries is not None:
            yield from self._check_carried(step, draft, draft.carries)
            return
        yield from unseen(
            _of_event(self.event_codes(step.config)),
            draft.event_type,
            who=f"The {self.noun} “{step.key}”",
            step=step.key,
        )

    def _check_carried(
        self, step: Step, draft: Draft, carries: Mapping[str, str]
    ) -> Iterator[Problem]:
        """An event that we record ourselves says this, and never anything else."""
        for code in sorted(_of_event(self.all_codes(step.config)) - carries.keys()):
            yield error(
                step,
                f"“{step.key}” asks for “{code}”, which “{draft.version.event_name}” "
                f"never has; it says {', '.join(carries)}.",
            )

    def _check_answers(self, step: Step, draft: Draft) -> Iterator[Problem]:
        """An answer is there only after the step that asks for it."""
        asking = draft.keys(ASKING)
        for key in sorted(self.answers_asked(step.config)):
            if key not in asking:
                wrong = f"the answer of “{key}”, which calls no webhook"
            elif key == step.key or step.key not in draft.after(key):
                wrong = f"the answer of “{key}”, which does not come before it"
            else:
                continue
            yield error(
                step,
                f"“{step.key}” speaks of {wrong}. Name a step “Call webhook” that "
                "comes earlier.",
            )

    def segments(self, config: Config) -> set[int]:
        """The segments that must not be deleted under it."""
        return set()

    @abstractmethod
    def clean(self, config: Config) -> Config:
        """The configuration, checked and complete. Raises Invalid."""

    @abstractmethod
    def describe(self, config: Config) -> str:
        """What the step does, in a few words, for the picture."""

    @abstractmethod
    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        """Do it for all these runs at once: run's id → outcome.

        Called inside a transaction, with the runs locked; never talks to the network.
        """

    def rehearse(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        """The same, but nothing other than runs and messages is changed.

        Whoever changes anything else says here what would come of it.
        """
        return self.execute(step, runs, now=now)


def asked_of(codes: set[str]) -> set[str]:
    """The steps whose answers these paths lead into."""
    return {code.split(".")[1] for code in codes if code.startswith(f"{ANSWERS}.")}


def _of_event(codes: set[str]) -> set[str]:
    return {code for code in codes if not code.startswith(f"{ANSWERS}.")}


def only(config: object, known: set[str]) -> Config:
    """The config, when it is an object with no key that is not known."""
    if not isinstance(config, dict):
        raise ConfigInvalid("“config” is an object.")
    if unknown := sorted(str(key) for key in config if key not in known):
        raise ConfigInvalid(
            f"“{unknown[0]}” is not understood here; known are "
            f"{', '.join(sorted(known))}.",
            field=unknown[0],
        )
    return config
