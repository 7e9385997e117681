"""Segments through the API: saved rules, who is in them, and rules being tried out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from django.db import IntegrityError, transaction
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from customers.api import CUSTOMER, CustomerOut, customers_out
from events.models import Scope
from segments import members, offers, rules, usage
from segments.describe import describe
from segments.dictionary import Dictionary
from segments.models import Segment
from segments.preview import preview
from segments.refresh import REFRESH
from smartcomm.core import doorbell
from smartcomm.core.api import (
    LIST_PARAMETERS,
    ApiView,
    created,
    next_page,
    page,
    page_size,
    read_cursor,
)
from smartcomm.core.bodies import read_struct
from smartcomm.core.errors import Conflict, Invalid, NotFound
from smartcomm.core.openapi import LIST, operation

Meta = msgspec.Meta

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
    rule: Rule
    description: str = ""


class SegmentOut(msgspec.Struct):
    """A saved rule, with how many customers met it when that was last counted."""

    id: int
    name: str
    description: str
    rule: Rule
    sentence: Annotated[
        str | None, Meta(description="The rule in words; null if it cannot be read.")
    ]
    status: Annotated[str, Meta(extra_json_schema={"enum": Segment.Status.values})]
    count: int | None
    counted_at: datetime | None
    took_ms: int | None
    error: Annotated[str | None, Meta(description="Why counting failed.")]
    created_at: datetime
    updated_at: datetime


class SegmentsPage(msgspec.Struct):
    results: list[SegmentOut]
    next: str | None


class SegmentCustomersPage(msgspec.Struct):
    results: list[CustomerOut]
    next: str | None


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
    "rule": RULE,
    "sentence": "city is “Paris”, and “Product viewed” with name “Bag” occurred at "
    "least 3 times in the last 30 days",
    "status": "fresh",
    "count": 417,
    "counted_at": "2026-11-20T07:15:00Z",
    "took_ms": 31,
    "error": None,
    "created_at": "2026-11-19T12:00:00Z",
    "updated_at": "2026-11-19T12:00:00Z",
}
SAVED = {key: SEGMENT[key] for key in ("name", "rule", "description")}


class Segments(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.MANAGE}
    parameters = LIST_PARAMETERS

    @operation(
        name="listSegments",
        tag="Segments",
        summary="List segments",
        description="All segments, in the order in which they were made.",
        parameters=LIST,
        answers={200: SegmentsPage},
        example={"results": [SEGMENT], "next": None},
        problems=(400,),
    )
    def get(self, request: Request) -> Response:
        words = Words()
        return Response(
            page(request, Segment.objects.all(), lambda one: segment_out(one, words))
        )

    @operation(
        name="createSegment",
        tag="Segments",
        summary="Create a segment",
        description="The rule is read strictly: a word, an event, an attribute or a "
        "segment that does not exist is refused with its place.",
        body=SegmentIn,
        body_example=SAVED,
        answers={201: SegmentOut},
        example=SEGMENT,
        problems=(409,),
    )
    def post(self, request: Request) -> Response:
        segment = _save(Segment(), read_struct(request, SegmentIn))
        return created(
            segment_out(segment), at=f"{request.build_absolute_uri()}/{segment.pk}"
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
        return Response(segment_out(find_segment(pk)))

    @operation(
        name="replaceSegment",
        tag="Segments",
        summary="Replace a segment",
        description="Name, rule and description become what the body says. Campaigns "
        "and segments that use it follow at once.",
        body=SegmentIn,
        body_example=SAVED,
        answers={200: SegmentOut},
        example=SEGMENT,
        problems=(404, 409),
    )
    def put(self, request: Request, pk: int) -> Response:
        segment = _save(find_segment(pk), read_struct(request, SegmentIn))
        return Response(segment_out(segment))

    @operation(
        name="deleteSegment",
        tag="Segments",
        summary="Delete a segment",
        description="Refused while another segment uses it.",
        answers={204: None},
        problems=(404, 409),
    )
    def delete(self, request: Request, pk: int) -> Response:
        segment = find_segment(pk)
        usage.refuse_if_used(segment)
        segment.delete()
        return Response(status=204)


class SegmentCustomers(ApiView):
    scopes = {"GET": Scope.READ}
    parameters = LIST_PARAMETERS

    @operation(
        name="listSegmentCustomers",
        tag="Segments",
        summary="List who is in a segment",
        description="Who meets the rule now, those first who became known last. Every "
        "page asks the rule anew.",
        parameters=LIST,
        answers={200: SegmentCustomersPage},
        example={"results": [CUSTOMER], "next": None},
        problems=(400, 404, 422),
    )
    def get(self, request: Request, pk: int) -> Response:
        found = members.page(
            rules.parse(find_segment(pk).rule),
            now=timezone.now(),
            before=read_cursor(request),
            limit=page_size(request),
        )
        return Response(
            {
                "results": customers_out(found.items),
                "next": next_page(request, found.next),
            }
        )


class Preview(ApiView):
    scopes = {"POST": Scope.READ}

    @operation(
        name="previewSegment",
        tag="Segments",
        summary="Try out a rule",
        description="How many customers meet the rule, as an estimate from a random "
        "sample with its margin, or counted exactly; the rule in words; and some of "
        "those who meet it. Nothing is saved.",
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
        },
    )
    def post(self, request: Request) -> Response:
        sent = read_struct(request, PreviewIn)
        found = preview(rules.parse(sent.rule), exact=sent.exact)
        return Response(
            PreviewOut(
                count=found.count,
                exact=found.exact,
                margin=found.margin,
                sentence=found.sentence,
                sample=list(found.sample),
                took_ms=found.took_ms,
            )
        )


def find_segment(pk: int) -> Segment:
    segment = Segment.objects.filter(pk=pk).first()
    if segment is None:
        raise NotFound(f"There is no segment {pk}.")
    return segment


class Words:
    """Labels and names for sentences, looked up once for a whole list."""

    def __init__(self) -> None:
        self.attributes = offers.attribute_labels()
        self.segments = offers.segment_names()


def segment_out(segment: Segment, words: Words | None = None) -> SegmentOut:
    words = words or Words()
    try:
        sentence = describe(
            rules.parse(segment.rule),
            attributes=words.attributes,
            segments=words.segments,
        )
    except Invalid:
        sentence = None
    return SegmentOut(
        id=segment.pk,
        name=segment.name,
        description=segment.description,
        rule=segment.rule,
        sentence=sentence,
        status=segment.status,
        count=segment.count,
        counted_at=segment.counted_at,
        took_ms=segment.took_ms,
        error=segment.error or None,
        created_at=segment.created_at,
        updated_at=segment.updated_at,
    )


def _save(segment: Segment, sent: SegmentIn) -> Segment:
    rule = rules.parse(sent.rule)
    if segment.pk:
        usage.refuse_circle(segment.pk, rule)
    else:
        Dictionary.of(rule)  # Refuses names that do not exist.
    data = rules.to_json(rule)
    # Only what was told: a count may be kept at this very moment.
    named = ["name", "description", "rule", "updated_at"]
    if data != segment.rule:
        segment.status = Segment.Status.NEW
        named.append("status")
    segment.name = sent.name.strip()
    if not segment.name:
        raise Invalid("Give the segment a name.", field="name")
    segment.description = sent.description
    segment.rule = data
    try:
        with transaction.atomic():
            segment.save(update_fields=named if segment.pk else None)
            doorbell.ring(REFRESH)
    except IntegrityError as error:
        raise Conflict(
            f"There is a segment “{segment.name}” already. Choose another name.",
            field="name",
            code="name_taken",
        ) from error
    return segment
