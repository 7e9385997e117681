"""Segments through the API: saved rules, who is in them, and rules being tried out."""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from django.db.models import Max
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from customers.api import CUSTOMER, CustomerOut, customers_out, find_customer
from events.models import Scope
from segments import counting, finding, lists, members, panel, rules, saving, versions
from segments.dictionary import Dictionary
from segments.explain import Node, explain, rule_of
from segments.models import Segment, SegmentVersion
from segments.preview import EXACT_MS, has_few, preview, sentence_of
from segments.preview import Preview as Previewed
from segments.reading import TooDear
from segments.saving import Wanted
from segments.upkeep import state, with_state
from smartcomm.core.api import (
    LIST_PARAMETERS,
    ApiView,
    BadParameter,
    created,
    next_page,
    page,
    page_size,
    read_cursor,
    read_flag,
    read_text,
)
from smartcomm.core.bodies import read_struct
from smartcomm.core.errors import Invalid, NotFound
from smartcomm.core.openapi import LIST, TEXT, operation
from smartcomm.core.scopes import caller_of

Meta = msgspec.Meta
UNSET = msgspec.UNSET

Kind = Literal["dynamic", "static"]
ExternalId = Annotated[str, Meta(min_length=1, max_length=128)]
Rule = Annotated[
    dict[str, Any],
    Meta(
        description="A tree of `all`, `any` and `not` over conditions on attributes, "
        "events and other segments.",
        examples=[{"attribute": "city", "op": "=", "value": "Paris"}],
    ),
]


class SegmentIn(msgspec.Struct, forbid_unknown_fields=True):
    """A segment to save."""

    name: Annotated[str, Meta(min_length=1, max_length=150)]
    rule: Annotated[
        Rule | msgspec.UnsetType, Meta(description="Of a static segment: left out.")
    ] = UNSET
    description: Annotated[str, Meta(max_length=saving.MAX_DESCRIPTION)] = ""
    kind: Annotated[
        Kind | msgspec.UnsetType,
        Meta(
            description="`dynamic`, by a rule, unless said; `static`: a list of "
            "customers who are put in and taken out. It never changes."
        ),
    ] = UNSET
    watched: Annotated[
        bool | msgspec.UnsetType,
        Meta(
            description="Record `segment.entered` and `segment.left` events. Left out: "
            "as it is."
        ),
    ] = UNSET
    version: Annotated[
        Annotated[int, Meta(ge=0, le=2**31 - 1)] | msgspec.UnsetType,
        Meta(
            description="The version that you read before: if somebody saved another "
            "one since, yours is refused."
        ),
    ] = UNSET


class SegmentOut(msgspec.Struct):
    """A saved segment, with how many customers were in it when last counted."""

    id: int
    name: str
    description: str
    kind: Kind
    rule: Annotated[Rule | None, Meta(description="Null of a static segment.")]
    sentence: Annotated[
        str | None,
        Meta(description="The rule in words; null if there is none or it is broken."),
    ]
    watched: bool
    status: Annotated[
        str,
        Meta(
            description="How well the members are known.",
            extra_json_schema={"enum": Segment.Status.values},
        ),
    ]
    progress: Annotated[
        int | None, Meta(description="While `computing`: how many % are done.")
    ]
    count: int | None
    counted_at: datetime | None
    took_ms: int | None
    error: Annotated[str | None, Meta(description="Why counting failed.")]
    version: Annotated[int, Meta(description="The number of its newest version.")]
    archived_at: datetime | None
    created_at: datetime
    updated_at: datetime


class SegmentsPage(msgspec.Struct):
    results: list[SegmentOut]
    next: str | None


class SegmentVersionOut(msgspec.Struct):
    """A segment as it was saved."""

    number: int
    name: str
    description: str
    rule: Rule | None
    sentence: str | None
    author: Annotated[str, Meta(description="A person, or the source of a key.")]
    created_at: datetime


class SegmentVersionsPage(msgspec.Struct):
    results: list[SegmentVersionOut]
    next: str | None


class SegmentCustomersPage(msgspec.Struct):
    results: list[CustomerOut]
    next: str | None


class ListIn(msgspec.Struct, forbid_unknown_fields=True):
    """Customers to put into a static segment, and to take out, by external id."""

    add: Annotated[list[ExternalId], Meta(max_length=lists.MAX_IDS)] = []
    remove: Annotated[list[ExternalId], Meta(max_length=lists.MAX_IDS)] = []


class ListOut(msgspec.Struct):
    """What became of them. Who was in, or out, already is not counted again."""

    added: int
    removed: int
    unknown: Annotated[
        list[str], Meta(description="The ids that no customer has, each once.")
    ]
    count: Annotated[int, Meta(description="How many are in it now.")]


class PreviewIn(msgspec.Struct, forbid_unknown_fields=True):
    """A rule to try out."""

    rule: Rule
    exact: Annotated[
        bool, Meta(description="Count all instead of estimating from a sample.")
    ] = False


class PreviewOut(msgspec.Struct):
    """How many customers meet a rule, and some of them."""

    count: int
    exact: bool
    margin: Annotated[
        int, Meta(description="The count is right within ± this, at 95 %.")
    ]
    sentence: str
    sample: Annotated[list[str], Meta(description="External ids of some of them.")]
    took_ms: int
    reach: Annotated[
        dict[str, int],
        Meta(
            description="Channel → how many of them a message on it would be sent to."
        ),
    ]


class Explained(msgspec.Struct):
    """Whether a customer is in a segment, and why."""

    segment: int
    customer: Annotated[str, Meta(description="The external id, as it is now.")]
    holds: Annotated[
        bool | None,
        Meta(
            description="null: a part of the rule cannot be asked; it matches nobody."
        ),
    ]
    asked_at: datetime
    sentence: str
    tree: Node


RULE = {
    "all": [
        {"attribute": "city", "op": "=", "value": "Paris"},
        {
            "event": "Product viewed",
            "where": [{"field": "name", "op": "=", "value": "Bag"}],
            "period": {"last": 30, "unit": "days"},
            "count": {"op": ">=", "value": 3},
        },
    ]
}
SEGMENT = {
    "id": 12,
    "name": "Bag lovers in Paris",
    "description": "",
    "kind": "dynamic",
    "rule": RULE,
    "sentence": "City is “Paris”, and “Product viewed” with name is “Bag” at least 3 "
    "times in the last 30 days",
    "watched": False,
    "status": "fresh",
    "progress": None,
    "count": 417,
    "counted_at": "2026-11-20T07:15:00Z",
    "took_ms": 31,
    "error": None,
    "version": 3,
    "archived_at": None,
    "created_at": "2026-11-19T12:00:00Z",
    "updated_at": "2026-11-19T12:00:00Z",
}
SAVED = {key: SEGMENT[key] for key in ("name", "rule", "description")}
VERSION = {
    "number": 3,
    **{key: SEGMENT[key] for key in ("name", "description", "rule", "sentence")},
    "author": "anna",
    "created_at": "2026-11-19T12:00:00Z",
}
CHANGED = {
    "added": 2,
    "removed": 1,
    "unknown": ["C-9999"],
    "count": 418,
}
FILTERS = [
    OpenApiParameter("kind", enum=Segment.Kind.values, description="Only this kind."),
    OpenApiParameter(
        "status", enum=Segment.Status.values, description="Only those in this state."
    ),
    OpenApiParameter(
        "archived",
        bool,
        description="Those that are archived, instead of those in use.",
    ),
    OpenApiParameter(
        "search",
        TEXT,
        description="Only those whose name or description has these words.",
    ),
]


NODE = {
    "wanted": True,
    "blocks": False,
    "change": "",
    "problem": "",
    "value": None,
    "count": None,
    "first": None,
    "last": None,
    "events": [],
    "more": 0,
    "left_out": [],
    "left_out_count": 0,
    "fields": [],
    "since": None,
    "segment": None,
    "member_since": None,
    "parts": [],
}
EXPLAINED = {
    "segment": 12,
    "customer": "C-1001",
    "holds": False,
    "asked_at": "2026-11-20T07:15:00Z",
    "sentence": SEGMENT["sentence"],
    "tree": {
        **NODE,
        "kind": "all",
        "at": "",
        "words": "All of these",
        "holds": False,
        "blocks": True,
        "fact": "1 of 2 holds",
        "parts": [
            {
                **NODE,
                "kind": "attribute",
                "at": "all.0",
                "words": "City is “Paris”",
                "holds": True,
                "fact": "City is “Paris”",
                "value": "Paris",
            },
            {
                **NODE,
                "kind": "event",
                "at": "all.1",
                "words": "“Product viewed” with name is “Bag” in the last 30 days at "
                "least 3 times",
                "holds": False,
                "blocks": True,
                "fact": "Once, at least 3 wanted; the last 2 days ago",
                "change": "2 more such events must come.",
                "count": 1,
                "fields": ["name"],
                "first": "2026-11-18T10:15:00Z",
                "last": "2026-11-18T10:15:00Z",
                "events": [
                    {
                        "pk": 5521,
                        "id": "view-5521",
                        "name": "Product viewed",
                        "source": "shop",
                        "occurred_at": "2026-11-18T10:15:00Z",
                        "context": {"name": "Bag"},
                        "others": [],
                    }
                ],
            },
        ],
    },
}


class Segments(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.MANAGE}
    parameters = LIST_PARAMETERS | {"kind", "status", "archived", "search"}

    @operation(
        name="listSegments",
        tag="Segments",
        summary="List segments",
        description="Segments in the order in which they were made; those that are "
        "archived only when asked for.",
        parameters=[*FILTERS, *LIST],
        answers={200: SegmentsPage},
        example={"results": [SEGMENT], "next": None},
        problems=(400,),
    )
    def get(self, request: Request) -> Response:
        shape = Shape()
        rows = _rows().filter(archived_at__isnull=not read_flag(request, "archived"))
        if kind := _choice(request, "kind", Segment.Kind.values):
            rows = rows.filter(kind=kind)
        if status := _choice(request, "status", Segment.Status.values):
            rows = finding.with_status(rows, status, now=shape.now)
        rows = finding.with_text(rows, read_text(request, "search")[:200])
        return Response(page(request, rows, shape.segment))

    @operation(
        name="createSegment",
        tag="Segments",
        summary="Create a segment",
        description="The rule is read strictly: a word, an event, an attribute or a "
        "segment that does not exist is refused with its place. A static segment has "
        "no rule, and is empty until customers are put in.",
        body=SegmentIn,
        body_example=SAVED,
        answers={201: SegmentOut},
        example=SEGMENT
        | {"status": "computing", "progress": 0, "count": None, "counted_at": None},
        problems=(409,),
    )
    def post(self, request: Request) -> Response:
        sent = read_struct(request, SegmentIn)
        kind = Segment.Kind.DYNAMIC if sent.kind is UNSET else Segment.Kind(sent.kind)
        segment = saving.create(
            _wanted(sent, kind=kind, watched=False),
            author=_author(request),
            kind=kind,
        )
        return created(
            Shape().segment(segment),
            at=f"{request.build_absolute_uri()}/{segment.pk}",
        )


class OneSegment(ApiView):
    scopes = {"GET": Scope.READ, "PUT": Scope.MANAGE, "DELETE": Scope.MANAGE}

    @operation(
        name="readSegment",
        tag="Segments",
        summary="Read a segment",
        description="The rule, the rule in words, and the last count.",
        answers={200: SegmentOut},
        example=SEGMENT,
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        return Response(Shape().segment(find_segment(pk)))

    @operation(
        name="replaceSegment",
        tag="Segments",
        summary="Replace a segment",
        description="Name, rule and description become what the body says; `watched` "
        "stays unless it is told. Campaigns and segments that use it follow at once. "
        "What it said before stays as a version.",
        body=SegmentIn,
        body_example=SAVED,
        answers={200: SegmentOut},
        example=SEGMENT,
        problems=(404, 409),
    )
    def put(self, request: Request, pk: int) -> Response:
        segment = find_segment(pk)
        sent = read_struct(request, SegmentIn)
        if sent.kind not in (UNSET, segment.kind):
            raise Invalid(
                f"This segment is {segment.kind}, and its kind never changes. Make "
                "another segment.",
                field="kind",
            )
        saved = saving.change(
            segment,
            _wanted(sent, kind=segment.kind, watched=segment.is_watched),
            author=_author(request),
            seen=None if sent.version is UNSET else sent.version,
        )
        return Response(Shape().segment(saved))

    @operation(
        name="deleteSegment",
        tag="Segments",
        summary="Delete a segment",
        description="Refused while a campaign or another segment uses it.",
        answers={204: None},
        problems=(404, 409),
    )
    def delete(self, request: Request, pk: int) -> Response:
        saving.delete(find_segment(pk))
        return Response(status=204)


class ArchiveSegment(ApiView):
    scopes = {"POST": Scope.MANAGE}

    @operation(
        name="archiveSegment",
        tag="Segments",
        summary="Archive a segment",
        description="It is kept up to date no longer, and no new rule may use it. "
        "Refused while a published campaign or a segment in use needs it.",
        answers={200: SegmentOut},
        example=SEGMENT | {"status": "stale", "archived_at": "2026-11-21T09:00:00Z"},
        problems=(404, 409),
    )
    def post(self, request: Request, pk: int) -> Response:
        return Response(Shape().segment(saving.archive(find_segment(pk))))


class RestoreSegment(ApiView):
    scopes = {"POST": Scope.MANAGE}

    @operation(
        name="restoreSegment",
        tag="Segments",
        summary="Take a segment out of the archive",
        description="It is counted anew, and kept up to date again.",
        answers={200: SegmentOut},
        example=SEGMENT | {"status": "computing", "progress": 0},
        problems=(404, 409),
    )
    def post(self, request: Request, pk: int) -> Response:
        return Response(Shape().segment(saving.restore(find_segment(pk))))


class SegmentVersions(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = LIST_PARAMETERS

    @operation(
        name="listSegmentVersions",
        tag="Segments",
        summary="List what a segment said before",
        description="A version for each change of name, description or rule, newest "
        "first.",
        parameters=LIST,
        answers={200: SegmentVersionsPage},
        example={"results": [VERSION], "next": None},
        problems=(400, 404),
    )
    def get(self, request: Request, pk: int) -> Response:
        shape = Shape()
        rows = SegmentVersion.objects.filter(segment=find_segment(pk))
        return Response(page(request, rows, shape.version, newest_first=True))


class SegmentCustomers(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.MANAGE}
    parameters = LIST_PARAMETERS

    @operation(
        name="listSegmentCustomers",
        tag="Segments",
        summary="List who is in a segment",
        description="Who meets the rule now, those first who became known last. Every "
        "page asks the rule anew. Of a static segment: who is on the list.",
        parameters=LIST,
        answers={200: SegmentCustomersPage},
        example={"results": [CUSTOMER], "next": None},
        problems=(400, 404, 422),
    )
    def get(self, request: Request, pk: int) -> Response:
        segment = find_segment(pk)
        before, limit = read_cursor(request), page_size(request)
        if segment.is_static:
            found = members.listed(segment, before=before, limit=limit)
        else:
            found = members.page(
                rules.parse(segment.rule),
                now=timezone.now(),
                before=before,
                limit=limit,
            )
        return Response(
            {
                "results": customers_out(found.items),
                "next": next_page(request, found.next),
            }
        )

    @operation(
        name="changeSegmentCustomers",
        tag="Segments",
        summary="Change who is on a list",
        description="Puts customers into a static segment and takes others out, by "
        "their external ids; up to 10,000 each. Ids that nobody has are told, and "
        "hinder none of the others. Sending the same again changes nothing.",
        body=ListIn,
        body_example={"add": ["C-1001", "C-1002", "C-9999"], "remove": ["C-1003"]},
        answers={200: ListOut},
        example=CHANGED,
        problems=(404, 409),
    )
    def post(self, request: Request, pk: int) -> Response:
        segment = find_segment(pk)
        sent = read_struct(request, ListIn)
        done = lists.edit(
            segment,
            add=sent.add,
            remove=sent.remove,
            author=_author(request),
            origin="the API",
        )
        return Response(ListOut(done.added, done.removed, done.unknown, done.count))


class SegmentExplain(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = frozenset({"customer"})

    @operation(
        name="explainSegment",
        tag="Segments",
        summary="Explain why a customer is in a segment or not",
        description="The rule as a tree: for every group and condition whether it "
        "holds for the customer, what is so, what would have to change, and the events "
        "that made it so. Asked of the rule at this moment, each part by the same "
        "query that decides who is in. What cannot be asked, such as an event that "
        "does not exist, is told in its place.",
        parameters=[
            OpenApiParameter(
                "customer",
                {"type": "string", "minLength": 1},
                description="The external id of the customer, now or formerly.",
                required=True,
            )
        ],
        answers={200: Explained},
        example=EXPLAINED,
        problems=(400, 404, 422),
    )
    def get(self, request: Request, pk: int) -> Response:
        asked = read_text(request, "customer")
        if not asked:
            raise BadParameter("Name the customer: ?customer=C-1001.", field="customer")
        segment = find_segment(pk)
        customer = find_customer(asked)
        now = timezone.now()
        rule = rule_of(segment)
        tree = explain(rule, customer.pk, now=now)
        return Response(
            Explained(
                segment=segment.pk,
                customer=customer.external_id,
                holds=tree.holds,
                asked_at=now,
                sentence=sentence_of(rule),
                tree=tree,
            )
        )


class Preview(ApiView):
    scopes = {"POST": Scope.READ}

    @operation(
        name="previewSegment",
        tag="Segments",
        summary="Try out a rule",
        description="How many customers meet the rule, as an estimate from a random "
        "sample with its margin, or counted exactly; the rule in words; and some of "
        "those who meet it. Nothing is saved. An exact count that takes longer than "
        "ten seconds is refused as `too_dear`; the problem says why, and has the "
        "estimate in its member `estimate`.",
        body=PreviewIn,
        body_example={"rule": RULE, "exact": True},
        answers={200: PreviewOut},
        example={
            "count": 417,
            "exact": True,
            "margin": 0,
            "sentence": SEGMENT["sentence"],
            "sample": ["C-1001", "C-1007"],
            "took_ms": 31,
            "reach": {"email": 380, "sms": 212, "push": 95},
        },
    )
    def post(self, request: Request) -> Response:
        sent = read_struct(request, PreviewIn)
        rule = rules.parse(sent.rule)
        if not sent.exact:
            return Response(_preview_out(preview(rule, exact=False)))
        began = time.monotonic()
        try:
            found = _exactly(rule)
        except TooDear as error:
            with contextlib.suppress(TooDear):
                about = _preview_out(preview(rule, exact=False))
                error.extensions = {"estimate": msgspec.to_builtins(about)}
            raise
        out = _preview_out(found)
        out.took_ms = round((time.monotonic() - began) * 1000)
        return Response(out)


def _exactly(rule: rules.Rule) -> Previewed:
    """The exact count, in the time that a request may take."""
    if has_few():
        return preview(rule, exact=True)
    Dictionary.of(rule)  # Refuses names that do not exist.
    count = counting.settle(
        rule, asker=f"request:{secrets.token_urlsafe(9)}", limit_ms=EXACT_MS
    )
    return replace(panel.counted(count), sentence=sentence_of(rule))


def _preview_out(found: Previewed) -> PreviewOut:
    return PreviewOut(
        count=found.count,
        exact=found.exact,
        margin=found.margin,
        sentence=found.sentence,
        sample=list(found.sample),
        took_ms=found.took_ms,
        reach=found.reach,
    )


def find_segment(pk: int) -> Segment:
    segment = _rows().filter(pk=pk).first()
    if segment is None:
        raise NotFound(f"There is no segment {pk}.")
    return segment


class Shape:
    """Segments as they are told; what all need is looked up once for a whole list."""

    def __init__(self) -> None:
        self.words = versions.Words()
        self.now = timezone.now()

    def segment(self, segment: Segment) -> SegmentOut:
        found = state(segment, self.now)
        newest = getattr(segment, "newest", None)
        return SegmentOut(
            id=segment.pk,
            name=segment.name,
            description=segment.description,
            kind="static" if segment.is_static else "dynamic",
            rule=segment.rule,
            sentence=self.sentence(segment.rule),
            watched=segment.is_watched,
            status=found.status,
            progress=found.percent,
            count=segment.count,
            counted_at=segment.counted_at,
            took_ms=segment.took_ms,
            error=segment.error or None,
            version=versions.current_number(segment) if newest is None else newest,
            archived_at=segment.archived_at,
            created_at=segment.created_at,
            updated_at=segment.updated_at,
        )

    def version(self, version: SegmentVersion) -> SegmentVersionOut:
        return SegmentVersionOut(
            number=version.number,
            name=version.name,
            description=version.description,
            rule=version.rule,
            sentence=self.sentence(version.rule),
            author=version.author,
            created_at=version.created_at,
        )

    def sentence(self, rule: Any) -> str | None:
        if rule is None:
            return None
        try:
            return self.words(rules.parse(rule))
        except Invalid:
            return None


def _rows() -> Any:
    rows = Segment.objects.annotate(newest=Max("versions__number", default=0))
    return with_state(rows)


def _wanted(sent: SegmentIn, *, kind: str, watched: bool) -> Wanted:
    if kind == Segment.Kind.DYNAMIC and sent.rule is UNSET:
        raise Invalid("Give the segment a rule.", field="rule")
    return Wanted(
        name=sent.name,
        description=sent.description,
        rule=None if sent.rule is UNSET else sent.rule,
        is_watched=watched if sent.watched is UNSET else sent.watched,
    )


def _author(request: Request) -> str:
    return str(caller_of(request).source)


def _choice(request: Request, name: str, known: list[str]) -> str:
    """A parameter that is one of these words; empty when it is not told."""
    text = read_text(request, name)
    if name in request.query_params and text not in known:
        words = ", ".join(f"“{word}”" for word in known)
        raise BadParameter(f"“{name}” must be one of {words}.", field=name)
    return text
