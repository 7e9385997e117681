"""The language of templates: Liquid in a sandbox, that tells what was missing.

Three things differ from plain Liquid, all for one reason: a message must never go out
with a blank where a value should be.

- A variable that is undefined, null, or nothing but blanks is *missing*. A missing
  variable that reaches the text is noted; so is a loop over a missing list. What a text
  does about it itself is not noted: `{{ x | default: "y" }}`, `{% if x %}`,
  `{% if x != blank %}`, `{% for i in x %}...{% else %}...{% endfor %}`.
- A filter over something missing is missing too (only `default` ends it), so
  `{{ price | append: " EUR" }}` does not become " EUR".
- `.size`, `.first` and `.last` of an object are fields of that name and nothing else:
  an event may well have a field `size`.

Templates reach values by keys only, never Python attributes; tags that load other
templates do not exist here; loops, output and variables are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache, wraps
from typing import Any, ClassVar, TextIO

from babel.core import Locale, UnknownLocaleError
from babel.numbers import UnknownCurrencyError, format_currency, format_decimal
from django.utils import timezone
from liquid import Environment, RenderContext
from liquid.ast import Node
from liquid.builtin.expressions import FilteredExpression, Path
from liquid.builtin.expressions import logical as comparisons
from liquid.builtin.expressions.primitive import Blank, Empty
from liquid.builtin.filters import misc
from liquid.builtin.output import Output, OutputNode
from liquid.builtin.tags.echo_tag import EchoNode, EchoTag
from liquid.builtin.tags.for_tag import ForNode, ForTag
from liquid.exceptions import (
    FilterArgumentError,
    LiquidError,
    ResourceLimitError,
    UnknownFilterError,
)
from liquid.expression import Expression
from liquid.filter import with_context
from liquid.output import LimitedStringIO
from liquid.token import Token
from liquid.undefined import UNDEFINED, Undefined
from markupsafe import Markup, escape

from smartcomm.core.errors import Invalid

#: More than any message needs; what runs away is stopped here.
OUTPUT_LIMIT = 1024 * 1024
LOOP_LIMIT = 10_000
#: Tags that load other templates, or write where nobody expects it.
UNKNOWN_TAGS = (
    "include",
    "render",
    "increment",
    "decrement",
    "ifchanged",
    "tablerow",
    "doc",
)
#: `safe` would let the value of an event be HTML.
UNKNOWN_FILTERS = ("safe", "escapejs")


class TemplateError(Invalid):
    """A text is not good Liquid, or could not be rendered. `line` counts from 1."""

    code = "template_error"

    def __init__(
        self, message: str, *, line: int | None = None, field: str = ""
    ) -> None:
        super().__init__(message, field=field)
        self.line = line


class Text:
    """A text that was parsed, ready to be rendered many times."""

    def __init__(self, source: str, *, html: bool) -> None:
        try:
            self.template = _environment(html).from_string(_freed(source))
        except LiquidError as error:
            raise _explained(error, source) from None
        self.source = source
        self.is_plain = "{{" not in source and "{%" not in source
        self.analysis = self.template.analyze()
        for node in self.template.nodes:
            _adjust(node, RenderContext(self.template))
        self._refuse_unknown_filters(source)

    def render(self, facts: Mapping[str, object]) -> tuple[str, list[str]]:
        """The text with `facts` put in, and the names of the variables it missed."""
        if self.is_plain:
            return self.source, []
        context = Context(self.template, globals=facts)
        buffer = LimitedStringIO(limit=OUTPUT_LIMIT)
        try:
            self.template.render_with_context(context, buffer)
        except LiquidError as error:
            raise _explained(error, "") from error
        except (ArithmeticError, ValueError) as error:
            # Of a value that a filter or a tag can do nothing with: a date in the
            # year 0, a limit below any number.
            raise TemplateError(f"A value does not fit its place: {error}.") from error
        return buffer.getvalue(), list(dict.fromkeys(context.missing))

    def variables(self) -> set[str]:
        """The dotted names of what the text takes from outside."""
        return {
            ".".join(_static_part(variable.segments))
            for found in self.analysis.globals.values()
            for variable in found
        }

    def _refuse_unknown_filters(self, source: str) -> None:
        known = self.template.env.filters
        for name, spans in self.analysis.filters.items():
            if name not in known:
                line = source.count("\n", 0, spans[0].index) + 1
                raise TemplateError(
                    f"Line {line}: there is no filter “{name}”.", line=line
                )


@lru_cache(maxsize=1024)
def parse(source: str, *, html: bool = False) -> Text:
    """Parse a text, or raise TemplateError. Parsed once per process and text.

    With `html` every value is escaped when it is put in.
    """
    return Text(source, html=html)


# --- missing variables ------------------------------------------------------------


class Missing(Undefined):
    """Stands for a variable without a value; notes itself when it reaches the text."""

    __slots__ = ("note",)

    #: Read by the filter `default`.
    force_liquid_default = True

    def __init__(
        self,
        name: str,
        *,
        token: Token | None = None,
        obj: object = UNDEFINED,
        hint: str | None = None,
        note: Callable[[str], None] = lambda name: None,
    ) -> None:
        super().__init__(name, token=token, obj=obj, hint=hint)
        self.note = note

    def __str__(self) -> str:
        self.note(self.name)
        return ""

    def __bool__(self) -> bool:
        return False

    __hash__ = Undefined.__hash__


class Context(RenderContext):
    """A render context that knows which variables were missing."""

    __slots__ = ("missing",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.missing: list[str] = []

    def get(
        self, path: list[object], *, token: Token | None, default: object = UNDEFINED
    ) -> object:
        try:
            value: Any = self.scope[path[0]]  # type: ignore[index]
            for key in path[1:]:
                # No `.size` and `.first` of an object: these may be its own fields.
                value = value[key] if type(value) is dict else self.get_item(value, key)
        except (KeyError, TypeError, IndexError):
            if default is not UNDEFINED:
                return default
        else:
            # What a template assigned by itself it may print blank: separators do.
            if not _is_blank(value) or (len(path) == 1 and path[0] in self.locals):
                return value
        name = ".".join(str(segment) for segment in path)
        return Missing(name, token=token, note=self.missing.append)


def _is_blank(value: object) -> bool:
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (not value and type(value) is dict)


def _passes_missing_on(name: str, apply: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is not applied to what is missing, and cannot blow up."""

    @wraps(apply)
    def filtered(value: Any, *args: Any, **kwargs: Any) -> Any:
        for given in (value, *args, *kwargs.values()):
            if isinstance(given, Missing):
                return given
            if isinstance(given, range) and len(given) > LOOP_LIMIT:
                raise ResourceLimitError("the range is too long", token=None)
        if name.startswith("replace") and len(args) == 2:
            _refuse_growth(str(value), str(args[0]), str(args[1]))
        return apply(value, *args, **kwargs)

    return filtered


def _refuse_growth(text: str, old: str, new: str) -> None:
    places = text.count(old) if old else len(text) + 1
    if len(text) + places * len(new) > OUTPUT_LIMIT:
        raise ResourceLimitError("the text grows too long", token=None)


# --- what is printed --------------------------------------------------------------


def _printed(value: object) -> str:
    """A value as people read it. Never the way Python writes it down."""
    match value:
        case str():
            return value
        case Missing():
            return str(value)
        case bool():
            return "true" if value else "false"
        case None:
            return ""
        case float():
            text = repr(value)
            return format(Decimal(text), "f") if "e" in text else text
        case datetime():
            return f"{_local(value):%Y-%m-%d %H:%M}"
        case date():
            return value.isoformat()
        case dict():
            return json.dumps(value, ensure_ascii=False, default=str)
        case list() | tuple():
            return "".join(_printed(item) for item in value)
        case range():
            return f"{value.start}..{value.stop - 1}"
    return str(value)


def _print(node: PrintNode | PrintEchoNode, context: Any, buffer: TextIO) -> int:
    value = node.expression.evaluate(context)
    text = _printed(value)
    if (
        not text.strip()
        and not isinstance(value, Missing)
        and (isinstance(value, list | tuple) or not node.may_be_blank)
    ):
        context.missing.append(str(node.expression))
    return buffer.write(
        escape(text) if context.autoescape and not isinstance(text, Markup) else text
    )


class PrintNode(OutputNode):
    """`{{ ... }}`: like Liquid's, but a blank is noted unless it was asked for."""

    __slots__ = ("may_be_blank",)

    def __init__(self, token: Token, expression: Expression) -> None:
        super().__init__(token, expression)
        self.may_be_blank = _may_be_blank(expression)

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return _print(self, context, buffer)


class PrintEchoNode(EchoNode):
    __slots__ = ("may_be_blank",)

    def __init__(self, token: Token, expression: Expression) -> None:
        super().__init__(token, expression)
        self.may_be_blank = _may_be_blank(expression)

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return _print(self, context, buffer)


def _may_be_blank(expression: Expression) -> bool:
    """Is a blank here what the author wrote: a literal, a variable of their own, or
    `default: ""`? (A plain variable of ours is never blank: it is missing.)
    """
    if not isinstance(expression, FilteredExpression):
        return True
    filters = expression.filters or []
    if not filters or not any(_paths(expression)):
        return True
    return any(used.name == "default" for used in filters)


def _paths(expression: Expression) -> Iterable[Path]:
    if isinstance(expression, Path):
        yield expression
    for child in expression.children():
        yield from _paths(child)


class PrintTag(Output):
    node_class = PrintNode


class PrintEchoTag(EchoTag):
    node_class = PrintEchoNode


class LoopNode(ForNode):
    """`{% for %}`: over something missing it takes its `else`, if it has one."""

    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        things = self.expression.iterable.evaluate(context)
        if not isinstance(things, Missing):
            return super().render_to_output(context, buffer)
        if self.default is not None:
            return self.default.render(context, buffer)
        things.note(things.name)
        return 0


class LoopTag(ForTag):
    node_class = LoopNode


# --- comparisons ------------------------------------------------------------------


class Equal(comparisons.EqExpression):
    """`==`, to which something missing equals nil, "", blank and empty alike."""

    __slots__ = ()

    def evaluate(self, context: RenderContext) -> bool:
        left, right = self.left.evaluate(context), self.right.evaluate(context)
        if isinstance(left, Missing) or isinstance(right, Missing):
            return _is_nothing(left) and _is_nothing(right)
        return bool(super().evaluate(context))


class Unequal(comparisons.NeExpression):
    __slots__ = ()

    def evaluate(self, context: RenderContext) -> bool:
        left, right = self.left.evaluate(context), self.right.evaluate(context)
        if isinstance(left, Missing) or isinstance(right, Missing):
            return not (_is_nothing(left) and _is_nothing(right))
        return bool(super().evaluate(context))


def _is_nothing(value: object) -> bool:
    if isinstance(value, Missing | Blank | Empty):
        return True
    return value is None or (isinstance(value, str) and not value.strip())


def _adjust(node: Node, context: RenderContext) -> None:
    """Give the comparisons below this node our idea of equal.

    The parser offers no place to say so; the classes differ in this method only.
    """
    for expression in node.expressions():
        _adjust_expression(expression)
    for child in node.children(context):
        _adjust(child, context)


def _adjust_expression(expression: Expression) -> None:
    if type(expression) is comparisons.EqExpression:
        expression.__class__ = Equal
    elif type(expression) is comparisons.NeExpression:
        expression.__class__ = Unequal
    for child in expression.children():
        _adjust_expression(child)


# --- filters ----------------------------------------------------------------------


def _local(moment: datetime) -> datetime:
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment


def _date(value: Any, layout: str = "%Y-%m-%d") -> str:
    """Liquid's `date`, in the time zone of the installation."""
    if value in ("now", "today"):
        value = timezone.localtime()
    elif isinstance(value, str):
        # Liquid knows more ways to write a date, and leaves alone what is none.
        with suppress(ValueError):
            value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        value = _local(value)
    return str(misc.date(value, str(layout), environment=_environment(False)))


@with_context
def _money(value: Any, currency: str = "", *, context: RenderContext) -> str:
    """An amount as the customer's language writes it: `{{ x | money: "EUR" }}`."""
    client: Any = context.globals["client"]
    return _amount(str(value).strip(), str(currency), str(client["language"] or ""))


@lru_cache(maxsize=4096)
def _amount(value: str, currency: str, language: str) -> str:
    try:
        amount = Decimal(value)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise FilterArgumentError(f"“{value}” is not an amount", token=None)
    locale = _locale(language)
    if not currency:
        return format_decimal(amount, format="#,##0.00", locale=locale)
    try:
        return format_currency(amount, currency, locale=locale)
    except (UnknownCurrencyError, ValueError):
        raise FilterArgumentError(
            f"“{currency}” is not a currency", token=None
        ) from None


@lru_cache(maxsize=64)
def _locale(language: str) -> Locale:
    try:
        return Locale.parse(language, sep="-")
    except (UnknownLocaleError, ValueError, TypeError):
        return Locale("en")


class Sandbox(Environment):
    """Liquid with bounds. There are two: one escapes HTML, the other does not."""

    block_nesting_limit: ClassVar[int] = 30
    context_depth_limit: ClassVar[int] = 30
    loop_iteration_limit: ClassVar[int | None] = LOOP_LIMIT
    local_namespace_limit: ClassVar[int | None] = OUTPUT_LIMIT
    output_stream_limit: ClassVar[int | None] = OUTPUT_LIMIT

    def __init__(self, *, html: bool) -> None:
        super().__init__(undefined=Missing, autoescape=html)
        for tag in (PrintTag, PrintEchoTag, LoopTag):
            self.add_tag(tag)
        for name in UNKNOWN_TAGS:
            self.tags.pop(name, None)
        self.add_filter("date", _date)
        self.add_filter("money", _money)
        for name in UNKNOWN_FILTERS:
            self.filters.pop(name, None)
        for name, apply in list(self.filters.items()):
            if name != "default":
                self.filters[name] = _passes_missing_on(name, apply)


@lru_cache(maxsize=2)
def _environment(html: bool) -> Sandbox:
    return Sandbox(html=html)


# --- names that are words of Liquid -----------------------------------------------

RESERVED_WORDS = (
    "and|as|blank|cols|contains|continue|else|empty|false|for|if|in|limit|nil|not|null"
    "|offset|or|required|reversed|true|with"
)
TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
#: A text in quotes, or a step of a path that Liquid would take for a word of its own.
STEP = re.compile(rf"""("[^"]*"|'[^']*')|(?<=[\w\]])\.({RESERVED_WORDS})(?![\w-])""")


def _freed(source: str) -> str:
    """The same text, in which `.limit` is `["limit"]`.

    An event may have a field `limit`, `for` or `blank`; Liquid refuses such steps.
    """
    return TAG.sub(
        lambda tag: STEP.sub(
            lambda found: found[1] or f'["{found[2]}"]',
            tag[0],
        ),
        source,
    )


# --- errors and names -------------------------------------------------------------


#: What the parser says of the commonest slips, for people who write no programs.
IN_WORDS = {
    "expected '}}', found end of file": "a “{{” is not closed with “}}”",
    "missing tag name or closing delimiter": "a “{%” is not closed with “%}”",
    "expected a primitive expression, found end of expression": (
        "between “{{” and “}}” stands no variable"
    ),
}


def _explained(error: LiquidError, source: str) -> TemplateError:
    """Liquid's complaint as a sentence with a line."""
    if isinstance(error, ResourceLimitError):
        return TemplateError(
            f"The text is too large or runs too long: {error.message}."
        )
    place = error.context()
    line = place[0] if place else None
    reason = str(error.message or "this is not understood").rstrip(".")
    reason = IN_WORDS.get(reason, reason)
    if isinstance(error, UnknownFilterError):
        reason = reason.replace("unknown filter", "there is no filter")
    if line is None and source:
        line, unclosed = _unclosed(source)
        reason = unclosed or reason
    if line is None:
        return TemplateError(f"{reason[:1].upper()}{reason[1:]}.")
    return TemplateError(f"Line {line}: {reason}.", line=line)


def _unclosed(source: str) -> tuple[int | None, str]:
    """The first tag that is never closed: its line, and a sentence."""
    try:
        tags = _environment(False).analyze_tags_from_string(source).unclosed_tags
    except LiquidError:
        return None, ""
    first = min(
        ((spans[0].index, name) for name, spans in tags.items() if spans), default=None
    )
    if first is None:
        return None, ""
    index, name = first
    line = source.count("\n", 0, index) + 1
    return line, f"{{% {name} %}} is never closed with {{% end{name} %}}"


def _static_part(segments: Iterable[Any]) -> Iterator[str]:
    """The beginning of a path that does not depend on other variables."""
    for segment in segments:
        if not isinstance(segment, str | int):
            return
        yield str(segment)
