"""The builder: a rule as a form, for the segment page and for any other form.

How to put it into a form of yours (the campaign editor does):

    from segments.builder import RuleField, WhereField

    class FilterForm(forms.Form):
        rule = RuleField(
            allow_event_values=True,          # values may be "$field_code"
            event_name_from="trigger-event",  # name of the input that holds the event
            event_name="Product in stock",    # what it holds now (see below)
        )

    class TriggerForm(forms.Form):
        where = WhereField(event_name_from="trigger-event")

- The initial value is JSON as in the API (a rule; a list of lines for WhereField), and
  so is the cleaned value. A rule that cannot be shown is said to be so, and kept.
- `form.prefix` works as always: the name of the field is the prefix of all names of
  the builder, so several stand on one page. All of them begin with `<name>.`, e.g.
  `steps-2-rule.0.event`: nothing else of the form may be named so.
- It must stand inside a <form> with the CSRF token. `{{ form.rule }}` or
  `{{ bound_field }}` renders it whole: the tree, its buttons, and (unless
  `live=False`) the line with the sentence and the count below it. `form.media` brings
  the one JS and CSS file; a page that adds forms by htmx includes the media itself
  once: htmx and Alpine, which the admin's theme loads, wake whatever appears later.
- Errors stand beside the fields after a failed save; `form.errors["rule"]` has one
  general sentence.
- `event_name_from` is the HTML name of an input in the same <form>. Its value is read
  with every request, and a change of it re-renders the builder. Without such an input
  the event stays the one that was set: `form.fields["rule"].event_name = "Order paid"`.
- `clean` looks names up: an event, attribute or segment that does not exist is an
  error beside its field. A WhereField checks no names, as any field may be awaited.
- The buttons talk to `admin:segments_builder_fragment`, the preview to
  `admin:segments_builder_preview`, the pickers to `admin:segments_builder_offers`. All
  need the permission to view segments. They never write.
- With `live=False` the preview stands where you put its slot, within the same <form>:
  `{% include "segments/builder/slot.html" with prefix="rule" look="panel" %}`.
- Every change sends the event `builder:changed`, which bubbles.

The preview (panel.py) answers a POST of the whole form, with `prefix` and `look`
("panel" or "line"), with the HTML of its slot. The slot asks by itself after every
change; a new question ends one under way. Its parts ask again by htmx attributes of
their own while the exact count is made; they inherit none of the slot's. The slot holds
an input `<prefix>.opt.asker`, which belongs into the next POST: it tells that the page
waits for the new rule and not for the one before. Elements with `data-problem="<name of
a field>"` in it are shown beside that field (`data-soft`: as a hint).

The state of the builder is the form itself: each button posts it, the server changes
the Draft (drafts.py) and sends it back re-rendered. Nothing is kept between requests;
undo posts an earlier state of the form as `state`.

Of Alpine only components that static/segments/builder.js registers are used, and of
htmx no expressions. A Content-Security-Policy must allow what the theme needs anyway:
its own Alpine evaluates expressions (`unsafe-eval`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe

from segments import drafts, rules
from segments.dictionary import Dictionary
from segments.drafts import Draft, Problem
from segments.presenter import Presenter
from segments.rules import RuleError

NOT_FINISHED = "The rule is not finished. Look at the marked fields."


@dataclass(frozen=True, slots=True)
class Options:
    """How one builder on a page behaves; it tells them with every request."""

    #: Only lines on an event's context, instead of a whole rule.
    is_where: bool = False
    allow_event_values: bool = False
    #: The name of the input with the event that lines on a context are about; of a
    #: rule, with the event whose values may be used.
    event_name_from: str = ""
    #: For lines on the context of one event with values of another: its input.
    values_from: str = ""
    #: Paths that values may come from besides the event's fields.
    more_values: tuple[str, ...] = ()
    live: bool = True
    #: Names of events that do not exist yet, and will when the rule is asked.
    to_come: frozenset[str] = frozenset()

    @classmethod
    def read(cls, data: Mapping[str, Any], prefix: str) -> Options:
        words = data.get(f"{prefix}.opt.words", "").split()
        return cls(
            is_where="where" in words,
            allow_event_values="values" in words,
            event_name_from=data.get(f"{prefix}.opt.event", ""),
            values_from=data.get(f"{prefix}.opt.values", ""),
            more_values=tuple(data.get(f"{prefix}.opt.more", "").split()),
            live="live" in words,
        )

    def event_name(self, data: Mapping[str, Any], prefix: str) -> str:
        """The event as the page has it now, or as it was when the builder was shown."""
        found = data.get(self.event_name_from) if self.event_name_from else None
        if found is None:
            found = data.get(f"{prefix}.opt.name", "")
        return str(found)

    def values_of(self, data: Mapping[str, Any], prefix: str) -> str:
        """The event whose values may be used."""
        if self.values_from:
            return str(data.get(self.values_from) or "")
        return self.event_name(data, prefix)

    def words(self) -> str:
        chosen = {
            "where": self.is_where,
            "values": self.allow_event_values,
            "live": self.live,
        }
        return " ".join(word for word, is_on in chosen.items() if is_on)


@dataclass
class Checked:
    """What a draft came to: JSON and the rule, or problems beside its fields."""

    data: Any = None
    rule: rules.Rule | None = None
    where: tuple[rules.FieldIs, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def is_unfinished(self) -> bool:
        """Something is missing, but nothing is wrong."""
        return bool(self.problems) and all(p.is_unfinished for p in self.problems)


def check(draft: Draft, prefix: str, options: Options) -> Checked:
    """Turn a draft into a rule whose names exist. Costs a query a kind of name."""
    write = drafts.write_where if options.is_where else drafts.write
    written = write(draft, prefix)
    if written.problems:
        return Checked(problems=tuple(written.problems))
    values = options.allow_event_values
    try:
        if options.is_where:
            where = rules.parse_where(written.data, event_values=values)
            return Checked(rules.where_json(where), where=where)
        rule = rules.parse(written.data, event_values=values)
        Dictionary.of(rule, to_come=options.to_come)
    except RuleError as error:
        name = written.name_of(error.field) or prefix
        return Checked(problems=(Problem(name, error.message),))
    return Checked(rules.to_json(rule), rule=rule)


def draft_of(value: Any, options: Options) -> Draft:
    """The draft of a stored rule (or list of lines); nothing stored: an empty one."""
    if isinstance(value, Draft):
        return value
    if not value:
        return Draft("all")
    try:
        if options.is_where:
            return drafts.of_where(
                rules.parse_where(value, event_values=options.allow_event_values)
            )
        return drafts.of_rule(
            rules.parse(value, event_values=options.allow_event_values)
        )
    except RuleError as error:
        return drafts.unreadable(value, error.message)


def render(
    draft: Draft,
    prefix: str,
    options: Options,
    *,
    event_name: str = "",
    values_of: str = "",
    problems: tuple[Problem, ...] = (),
    focus: str | None = None,
    on_handle: bool = False,
    status: str = "",
    template: str = "builder",
) -> SafeString:
    """The builder as HTML. `problems` are shown beside their fields."""
    presenter = Presenter(
        prefix=prefix,
        allow_event_values=options.allow_event_values,
        event_name=event_name,
        values_of=values_of,
        more_values=options.more_values,
        problems=problems,
        is_where=options.is_where,
        focus=focus,
        on_handle=on_handle,
    )
    return mark_safe(  # noqa: S308 - rendered by a template that escapes
        render_to_string(
            f"segments/builder/{template}.html",
            {
                "root": presenter.present(draft),
                "prefix": prefix,
                "options": options,
                "event_name": event_name,
                "status": status,
            },
        )
    )


def answer(data: Mapping[str, Any]) -> SafeString:
    """What a button of the builder gets: the builder again, changed."""
    prefix = data.get("prefix", "")
    options = Options.read(data, prefix)
    state = QueryDict(data["state"]) if "state" in data else data
    draft = drafts.read(state, prefix)
    deed, path = data.get("do", "show"), data.get("at", "")
    event_name = options.event_name(data, prefix)
    focus: str | None = None
    if deed == "changed":
        presenter = Presenter(
            prefix, options.allow_event_values, event_name, is_where=options.is_where
        )
        presenter.settle(draft, path)
    elif deed != "show":
        focus = drafts.edit(draft, deed, path, what=data.get("what", ""))
    return render(
        draft,
        prefix,
        options,
        event_name=event_name,
        values_of=options.values_of(data, prefix),
        focus=focus,
        on_handle=deed != "add",
        status=STATUS.get(deed, ""),
        template="tree",
    )


def share_text(share: float) -> str:
    """A part of all customers in words: 12 %, 0.4 %, less than 0.1 %. Only nobody is
    0 %, and only all are 100 %."""
    if 0 < share < 0.001:
        return "less than 0.1\u00a0%"
    if 0.995 <= share < 1:
        return "more than 99\u00a0%"
    digits = 0 if share == 0 or share >= 0.1 else 1
    return f"{share * 100:.{digits}f}\u00a0%"


#: What a screen reader is told after a deed.
STATUS = {
    "add": "Added.",
    "remove": "Removed. Undo brings it back.",
    "duplicate": "Copied.",
    "up": "Moved up.",
    "down": "Moved down.",
    "move": "Moved.",
    "negate": "Turned into its opposite.",
    "group": "Put into a group of its own.",
    "ungroup": "Group dissolved.",
}


class BuilderWidget(forms.Widget):
    """Shows the builder, and reads the draft back."""

    options = Options()
    event_name = ""
    values_of = ""

    class Media:
        css = {"all": ["segments/builder.css", "segments/preview.css"]}
        js = ["segments/builder.js"]

    def render(
        self,
        name: str,
        value: Any,
        attrs: dict[str, Any] | None = None,
        renderer: Any = None,
    ) -> SafeString:
        draft = draft_of(value, self.options)
        problems: tuple[Problem, ...] = ()
        if isinstance(value, Draft):
            # Read from a form that was sent: it is shown with what is wrong in it.
            problems = check(draft, name, self.options).problems
        return render(
            draft,
            name,
            self.options,
            event_name=self.event_name,
            values_of=self.values_of,
            problems=problems,
        )

    def value_from_datadict(
        self, data: Mapping[str, Any], files: Any, name: str
    ) -> Draft | None:
        self.event_name = self.options.event_name(data, name)
        self.values_of = self.options.values_of(data, name)
        return drafts.read(data, name)

    def value_omitted_from_data(
        self, data: Mapping[str, Any], files: Any, name: str
    ) -> bool:
        return f"{name}.opt.words" not in data

    def id_for_label(self, id_: str) -> str:
        # The label stands for many inputs, so for none of them.
        return ""


class RuleField(forms.Field):
    """A rule, built by clicking. The cleaned value is its JSON."""

    widget = BuilderWidget
    is_where = False

    def __init__(
        self,
        *,
        allow_event_values: bool = False,
        event_name_from: str = "",
        event_name: str = "",
        live: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.options = Options(
            is_where=self.is_where,
            allow_event_values=allow_event_values,
            event_name_from=event_name_from,
            live=live and not self.is_where,
        )
        self.widget.options = self.options
        self.event_name = event_name

    @property
    def event_name(self) -> str:
        """The event whose fields are offered: as values, or by WhereField as fields."""
        return self.widget.event_name

    @event_name.setter
    def event_name(self, name: str) -> None:
        self.widget.event_name = name

    def clean(self, value: Any) -> Any:
        draft = draft_of(value, self.options)
        if draft.kind == "all" and not draft.parts and not draft.where:
            if not self.required:
                return [] if self.is_where else None
            raise ValidationError("Add at least one condition.", code="required")
        checked = check(draft, "rule", self.options)
        if checked.problems:
            raise ValidationError(
                NOT_FINISHED if checked.is_unfinished else _first(checked),
                code="invalid",
            )
        return checked.data

    def has_changed(self, initial: Any, data: Any) -> bool:
        if self.disabled:
            return False
        before = check(draft_of(initial, self.options), "rule", self.options)
        after = check(draft_of(data, self.options), "rule", self.options)
        return bool(after.problems) or before.data != after.data


def _first(checked: Checked) -> str:
    return next(p.message for p in checked.problems if not p.is_unfinished)


class WhereField(RuleField):
    """A list of conditions on an event's context. May be empty unless required."""

    is_where = True

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("required", False)
        super().__init__(**kwargs)
