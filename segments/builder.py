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
  once: the script works on whatever appears later.
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

The state of the builder is the form itself: each button posts it, the server changes
the Draft (drafts.py) and sends it back re-rendered. Nothing is kept between requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe

from customers.models import Customer
from segments import drafts, offers, preview, rules
from segments.compile import MissingField, lookup
from segments.dictionary import Dictionary
from segments.drafts import Draft, Problem
from segments.presenter import Presenter
from segments.rules import RuleError
from smartcomm.core.errors import UserError

NOT_FINISHED = "The rule is not finished. Look at the marked fields."


@dataclass(frozen=True, slots=True)
class Options:
    """How one builder on a page behaves; it tells them with every request."""

    #: Only lines on an event's context, instead of a whole rule.
    is_where: bool = False
    allow_event_values: bool = False
    #: The name of the input with the event whose values may be used.
    event_name_from: str = ""
    live: bool = True

    @classmethod
    def read(cls, data: Mapping[str, Any], prefix: str) -> Options:
        words = data.get(f"{prefix}.opt.words", "").split()
        return cls(
            is_where="where" in words,
            allow_event_values="values" in words,
            event_name_from=data.get(f"{prefix}.opt.event", ""),
            live="live" in words,
        )

    def event_name(self, data: Mapping[str, Any], prefix: str) -> str:
        """The event as the page has it now, or as it was when the builder was shown."""
        found = data.get(self.event_name_from) if self.event_name_from else None
        if found is None:
            found = data.get(f"{prefix}.opt.name", "")
        return str(found)

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
        Dictionary.of(rule)
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
    problems: tuple[Problem, ...] = (),
    focus: str | None = None,
    status: str = "",
) -> SafeString:
    """The builder as HTML. `problems` are shown beside their fields."""
    presenter = Presenter(
        prefix=prefix,
        allow_event_values=options.allow_event_values,
        event_name=event_name,
        problems=problems,
        is_where=options.is_where,
    )
    return mark_safe(  # noqa: S308 - rendered by a template that escapes
        render_to_string(
            "segments/builder/builder.html",
            {
                "root": presenter.present(draft),
                "prefix": prefix,
                "options": options,
                "event_name": event_name,
                "focus": focus,
                "status": status,
            },
        )
    )


def answer(data: Mapping[str, Any]) -> SafeString:
    """What a button of the builder gets: the builder again, changed."""
    prefix = data.get("prefix", "")
    options = Options.read(data, prefix)
    draft = drafts.read(data, prefix)
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
        focus=focus,
        status=STATUS.get(deed, ""),
    )


def live(data: Mapping[str, Any], *, now: datetime) -> dict[str, Any]:
    """What the preview beside the builder shows, for its template.

    With few customers, or asked for exactly, the count is exact; otherwise it is an
    estimate, and the page asks again for the exact one. A rule that is not finished
    is not counted: half of it would be another rule.
    """
    prefix = data.get("prefix", "")
    options = Options.read(data, prefix)
    draft = drafts.read(data, prefix)
    shown: dict[str, Any] = {"look": data.get("look", ""), "is_empty": draft.is_empty}
    if draft.is_empty or options.is_where:
        return shown
    checked = check(draft, prefix, options)
    if checked.rule is None:
        return shown | {
            "problems": checked.problems,
            "is_unfinished": checked.is_unfinished,
        }
    shown["sentence"] = preview.sentence_of(checked.rule)
    context = None
    if needed := rules.event_values(checked.rule):
        example = offers.newest_event(options.event_name(data, prefix))
        shown["needs"] = sorted(needed)
        if example is None:
            return shown
        shown["example"] = example
        context = example.context
    try:
        shown["found"] = _counted(
            checked.rule, bool(data.get("exact")), now, context, shown
        )
    except MissingField as missing:
        shown["missing"] = sorted(missing.codes)
    except UserError as error:
        shown["error"] = error.message
    if found := shown.get("found"):
        shown["customers"] = _customers(found.sample)
        shown["share"] = share_text(found.share)
        shown["percent"] = round(found.share * 100, 1)
        shown["seconds"] = f"{found.took_ms / 1000:.1f}"
        if context is not None:
            shown["used"] = [(code, lookup(context, code)) for code in shown["needs"]]
    return shown


def share_text(share: float) -> str:
    """A part of all customers in words: 12 %, 0.4 %, less than 0.1 %."""
    if 0 < share < 0.001:
        return "less than 0.1\u00a0%"
    digits = 0 if share == 0 or share >= 0.1 else 1
    return f"{share * 100:.{digits}f}\u00a0%"


def _counted(
    rule: rules.Rule,
    exact: bool,
    now: datetime,
    context: Mapping[str, Any] | None,
    shown: dict[str, Any],
) -> preview.Preview:
    if exact:
        try:
            return preview.preview(rule, exact=True, now=now, context=context)
        except preview.TooDear as error:
            # The estimate stays, with the reason why there is nothing better.
            shown["error"] = error.message
    return preview.preview(rule, exact=False, now=now, context=context)


def _customers(external_ids: list[str]) -> list[Customer]:
    found = Customer.objects.in_bulk(external_ids, field_name="external_id")
    return [found[one] for one in external_ids if one in found]


#: What a screen reader is told after a deed.
STATUS = {
    "add": "Added.",
    "remove": "Removed. Undo brings it back.",
    "duplicate": "Copied.",
    "up": "Moved up.",
    "down": "Moved down.",
    "group": "Put into a group of its own.",
    "ungroup": "Group dissolved.",
}


class BuilderWidget(forms.Widget):
    """Shows the builder, and reads the draft back."""

    options = Options()
    event_name = ""

    class Media:
        css = {"all": ["segments/builder.css"]}
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
            draft, name, self.options, event_name=self.event_name, problems=problems
        )

    def value_from_datadict(
        self, data: Mapping[str, Any], files: Any, name: str
    ) -> Draft | None:
        self.event_name = self.options.event_name(data, name)
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
