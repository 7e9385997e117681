"""Explaining in the back office: “is C-1001 in? why?”, a page or a part of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone

from customers.contacts import normalise_email, normalise_phone
from customers.merging import current_ids
from customers.models import Customer
from customers.search import find
from segments.admin.access import may_view_customers, may_view_segments
from segments.answers import ago, shown
from segments.compile import lookup
from segments.evidence import Happening, Other
from segments.explain import Node, explain, rule_of
from segments.models import Membership, Segment
from segments.preview import sentence_of
from smartcomm.core.errors import UserError

#: So many customers are offered where a text fits several.
OFFERED = 8
#: So many values of an event are shown on its line.
GIST = 4

MARKS = {
    True: ("yes", "check"),
    False: ("no", "close"),
    None: ("open", "question_mark"),
}


@dataclass(frozen=True)
class EventLine:
    """An event or a message under a condition."""

    name: str
    at: datetime
    ago: str
    url: str
    gist: list[tuple[str, str]]
    #: The events beside it.
    others: list[EventLine] = field(default_factory=list)


@dataclass(frozen=True)
class EventList:
    """Some events under a condition, and how many there are."""

    title: str
    lines: list[EventLine]
    more: int
    more_url: str
    is_open: bool


@dataclass(frozen=True)
class Shown:
    """A node as the page shows it: a `not` of one condition is one line with it."""

    mark: str
    icon: str
    #: bad: it keeps the customer out; good: as it should be; quiet: it does not matter.
    tone: str
    words: str
    fact: str
    change: str
    problem: str
    is_group: bool
    unwanted: bool
    lists: list[EventList]
    since: EventLine | None
    segment_url: str
    parts: list[Shown]


def urls(wrap: Callable[..., Any], head: Callable[..., dict[str, Any]]) -> list[Any]:
    """`head` gives what the head of all pages of a segment shows."""
    return [
        path(
            "<int:pk>/explain/",
            wrap(partial(view, head=head)),
            name="segments_segment_explain",
        )
    ]


def view(
    request: HttpRequest, pk: int, *, head: Callable[..., dict[str, Any]]
) -> HttpResponse:
    """Whether the customer named in the address is in the segment, and why.

    A part for htmx, a page otherwise.
    """
    may_view_segments(request)
    may_view_customers(request)
    segment = get_object_or_404(Segment, pk=pk)
    text = request.GET.get("customer", "").replace("\0", "").strip()[:254]
    told: dict[str, Any] = {"segment": segment, "asked_for": text}
    if text:
        customer, several = look_up(text)
        told |= {"customer": customer, "several": several}
        if customer is not None:
            told |= answer(
                segment, customer, now=timezone.now(), may=request.user.has_perm
            )
    if request.headers.get("HX-Request"):
        return TemplateResponse(request, "segments/explain_answer.html", told)
    told |= {
        **admin.site.each_context(request),
        **head(request, segment, tab="explain"),
        "title": f"Who is in {segment.name}, and why",
    }
    try:
        told["words"] = sentence_of(rule_of(segment))
    except UserError as error:
        told["broken"] = error.message
    return TemplateResponse(request, "segments/explain_page.html", told)


def answer(
    segment: Segment, customer: Customer, *, now: datetime, may: Callable[[str], bool]
) -> dict[str, Any]:
    """What the template of the answer needs, for a customer who was found."""
    told: dict[str, Any] = {"asked_at": now}
    try:
        node = explain(rule_of(segment), customer.pk, now=now)
    except UserError as error:
        return {**told, "error": error.message}
    since = (
        Membership.objects.filter(customer_id=customer.pk, segment_id=segment.pk)
        .values_list("since", flat=True)
        .first()
    )
    is_kept = segment.is_static or segment.members_of == segment.edition
    return {
        **told,
        "holds": node.holds,
        "tree": Shower(customer, now, may).shown(node),
        "since": since if is_kept else None,
        # The list of members follows what happens by a few seconds.
        "differs": is_kept and node.holds is not None and node.holds != bool(since),
    }


def look_up(text: str) -> tuple[Customer | None, Sequence[Customer]]:
    """The customer whom this ID, contact or name means, or those it may mean."""
    customer = Customer.objects.filter(external_id=text).first()
    if customer is None and (merged := current_ids([text])):
        customer = Customer.objects.filter(pk=merged[text][0]).first()
    if customer is not None:
        return customer, []
    contact = (
        {"email": normalise_email(text).value}
        if "@" in text
        else {"phone": normalise_phone(text).value}
    )
    exact = list(Customer.objects.filter(**contact)[: OFFERED + 1])
    several = exact or list(find(Customer.objects.all(), text)[: OFFERED + 1])
    if len(several) == 1:
        return several[0], []
    return None, several


@dataclass
class Shower:
    """Turns a tree of nodes into lines, with links to what the reader may open."""

    customer: Customer
    now: datetime
    may: Callable[[str], bool]

    def shown(self, node: Node) -> Shown:
        inner, parts = node, node.parts
        if node.kind == "not":
            # One line for “never paid”, one group for “none of these”.
            inner = node.parts[0]
            parts = (inner,) if inner.kind == "not" else inner.parts
        mark, icon = MARKS[node.holds]
        return Shown(
            mark=mark,
            icon=icon,
            tone=self._tone(node),
            words=node.words,
            fact=inner.fact,
            change=inner.change,
            problem=inner.problem,
            is_group=inner.kind in ("all", "any", "not"),
            unwanted=not node.wanted and node.blocks,
            lists=self._lists(inner, is_open=node.blocks),
            since=self._event(inner.since) if inner.since else None,
            segment_url=self._segment(inner),
            parts=[self.shown(one) for one in parts],
        )

    def _lists(self, node: Node, *, is_open: bool) -> list[EventList]:
        if node.count is None:
            return []
        word = "message" if node.kind == "message" else "event"
        found = []
        if node.events:
            found.append(
                EventList(
                    _counted(node.count, word)
                    + (", the oldest first" if _is_oldest_first(node) else ""),
                    [self._event(one, node) for one in node.events],
                    node.more,
                    self._time_line(node, node.events) if node.more else "",
                    is_open,
                )
            )
        if node.left_out:
            found.append(
                EventList(
                    f"{node.left_out_count:,} left out",
                    [self._event(one, node) for one in node.left_out],
                    more := node.left_out_count - len(node.left_out),
                    self._time_line(node, node.left_out) if more else "",
                    is_open,
                )
            )
        return found

    def _tone(self, node: Node) -> str:
        if node.holds is None:
            return "warn"
        if node.blocks:
            return "bad"
        return "good" if node.holds is node.wanted else "quiet"

    def _event(self, found: Happening | Other, node: Node | None = None) -> EventLine:
        is_message = node is not None and node.kind == "message"
        looked_at = node.fields if node else ()
        values = {code: lookup(found.context, code) for code in looked_at}
        values |= found.context
        gist = [
            (code, shown(value).strip("“”"))
            for code, value in values.items()
            if isinstance(value, str | int | float) and value != ""
        ]
        if is_message:
            gist = [("subject", found.name), ("campaign", found.source)]
            gist = [pair for pair in gist if pair[1]]
        return EventLine(
            name=found.name,
            at=found.occurred_at,
            ago=ago(found.occurred_at, self.now),
            url=self._page(
                "messaging.message" if is_message else "events.event", found.pk
            ),
            gist=gist[:GIST],
            # Of the others only what they share.
            others=[self._event(one, node) for one in found.others]
            if isinstance(found, Happening)
            else [],
        )

    def _page(self, model: str, pk: int) -> str:
        app, name = model.split(".")
        if not self.may(f"{app}.view_{name}"):
            return ""
        return reverse(f"admin:{app}_{name}_change", args=[pk])

    def _segment(self, node: Node) -> str:
        if node.segment is None or (node.problem and not node.parts):
            return ""
        return self._page("segments.segment", node.segment)

    def _time_line(self, node: Node, some: Sequence[Happening]) -> str:
        """The time line of the customer, with such events and of that time only."""
        url = reverse("admin:customers_customer_change", args=[self.customer.pk])
        asked = {"kind": node.kind}
        if node.kind == "event":
            asked["name"] = some[0].name
            if node.first and node.last and some is node.events:
                asked["since"] = timezone.localdate(node.first).isoformat()
                asked["until"] = timezone.localdate(node.last).isoformat()
        return f"{url}?{urlencode(asked)}#timeline"


def _is_oldest_first(node: Node) -> bool:
    moments = [event.occurred_at for event in node.events]
    return len(moments) > 1 and moments[0] < moments[-1]


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
