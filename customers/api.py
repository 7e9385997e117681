"""The API's door for customers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime
from typing import Annotated, Any

import msgspec
from django.db.models import F, Prefetch, prefetch_related_objects
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from customers.merging import merge
from customers.models import Channel, Consent, ConsentChange, Customer, Device
from customers.upsert import Result, upsert_customers
from customers.wire import check_external_id
from smartcomm.core.api import ApiView, BadParameter, read_text
from smartcomm.core.bodies import read_items, read_object
from smartcomm.core.errors import Invalid, NotFound, Several, UserError
from smartcomm.core.openapi import operation
from smartcomm.core.problems import FieldProblem
from smartcomm.core.scopes import caller_of

Meta = msgspec.Meta

# The scopes are defined with the keys, in an app above this one.
READ = "read"
WRITE = "customers:write"


#: What clears a fact, for the schema.
EMPTY = [{"type": "string", "maxLength": 0}, {"type": "null"}]


class DeviceShape(msgspec.Struct):
    """An address for push."""

    platform: Annotated[
        str, Meta(extra_json_schema={"enum": ["android", "ios", "web"]})
    ]
    token: Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": 4096})]


class ConsentsOut(msgspec.Struct, omit_defaults=True):
    """Yes, no, or null when they never answered."""

    email: bool | None
    sms: bool | None
    push: bool | None
    categories: Annotated[
        dict[str, dict[str, bool]] | msgspec.UnsetType,
        Meta(
            description="Code of a mailing category → channel → yes or no; only those "
            "that were answered."
        ),
    ] = msgspec.UNSET


class ConsentDetail(msgspec.Struct):
    """An answer of a customer's."""

    channel: str
    category: Annotated[
        str | None,
        Meta(description="Code of a mailing category; null: the whole channel."),
    ]
    granted: bool
    at: Annotated[datetime, Meta(description="When they answered.")]
    origin: Annotated[str, Meta(description="Where, or who told us.")]


class ConsentStep(msgspec.Struct):
    """One of all the answers a customer ever gave."""

    channel: str
    category: str | None
    granted: Annotated[bool | None, Meta(description="Null: the answer was forgotten.")]
    at: datetime
    origin: str
    recorded_at: Annotated[datetime, Meta(description="When we were told.")]


class CustomerOut(msgspec.Struct, omit_defaults=True):
    """A customer. What is not known is null."""

    external_id: str
    first_name: str | msgspec.UnsetType | None = msgspec.UNSET
    last_name: str | msgspec.UnsetType | None = msgspec.UNSET
    email: str | msgspec.UnsetType | None = msgspec.UNSET
    email_is_valid: Annotated[
        bool | msgspec.UnsetType,
        Meta(description="An address that is not valid is kept, and not written to."),
    ] = msgspec.UNSET
    phone: str | msgspec.UnsetType | None = msgspec.UNSET
    phone_is_valid: bool | msgspec.UnsetType = msgspec.UNSET
    birth_date: date | msgspec.UnsetType | None = msgspec.UNSET
    gender: str | msgspec.UnsetType | None = msgspec.UNSET
    city: str | msgspec.UnsetType | None = msgspec.UNSET
    country: str | msgspec.UnsetType | None = msgspec.UNSET
    language: str | msgspec.UnsetType | None = msgspec.UNSET
    time_zone: str | msgspec.UnsetType | None = msgspec.UNSET
    registered_at: datetime | msgspec.UnsetType | None = msgspec.UNSET
    attributes: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    consents: ConsentsOut | msgspec.UnsetType = msgspec.UNSET
    devices: list[DeviceShape] | msgspec.UnsetType = msgspec.UNSET
    former_ids: Annotated[
        list[str] | msgspec.UnsetType,
        Meta(description="IDs of customers who were merged into this one."),
    ] = msgspec.UNSET
    consent_details: Annotated[
        list[ConsentDetail] | msgspec.UnsetType,
        Meta(description="The answers that hold. With `include=consent_details`."),
    ] = msgspec.UNSET
    consent_history: Annotated[
        list[ConsentStep] | msgspec.UnsetType,
        Meta(
            description="All answers there were, newest first, at most 1,000. With "
            "`include=consent_history`."
        ),
    ] = msgspec.UNSET
    warnings: Annotated[
        list[FieldProblem] | msgspec.UnsetType,
        Meta(description="After a PUT: what was kept, and should be looked at."),
    ] = msgspec.UNSET
    is_stub: Annotated[
        bool | msgspec.UnsetType,
        Meta(description="Made from an event, before anybody told who this is."),
    ] = msgspec.UNSET
    created_at: datetime | msgspec.UnsetType = msgspec.UNSET
    updated_at: datetime | msgspec.UnsetType = msgspec.UNSET


class AnswerIn(msgspec.Struct, omit_defaults=True):
    """An answer with its time and origin."""

    granted: bool
    at: Annotated[
        datetime | None,
        Meta(
            description="When they answered. An older answer never overwrites a newer "
            "one. Without it the answer holds from now on."
        ),
    ] = None
    origin: Annotated[str | None, Meta(extra_json_schema={"maxLength": 150})] = None


class ConsentsIn(msgspec.Struct, omit_defaults=True):
    """Only what is named changes. Null forgets an answer."""

    email: bool | AnswerIn | None = None
    sms: bool | AnswerIn | None = None
    push: bool | AnswerIn | None = None
    categories: Annotated[
        dict[str, dict[str, bool | AnswerIn | None]],
        Meta(description="Code of a mailing category → channel → answer."),
    ] = {}


class DeviceIn(msgspec.Struct, omit_defaults=True):
    """An address for push, to be added; or taken away, with `remove`."""

    token: Annotated[str, Meta(min_length=1, max_length=4096)]
    platform: Annotated[
        str | None, Meta(extra_json_schema={"enum": ["android", "ios", "web", None]})
    ] = None
    remove: bool = False


class CustomerChange(msgspec.Struct, omit_defaults=True):
    """What is to be known of a customer. Only what is named changes; null clears."""

    first_name: Annotated[str | None, Meta(extra_json_schema={"maxLength": 150})] = None
    last_name: Annotated[str | None, Meta(extra_json_schema={"maxLength": 150})] = None
    email: str | None = None
    phone: Annotated[
        str | None,
        Meta(description="With its country code, or as one dials it in `country`."),
    ] = None
    birth_date: Annotated[
        str | None,
        Meta(
            description="Null or an empty text clears it.",
            extra_json_schema={"anyOf": [{"type": "string", "format": "date"}, *EMPTY]},
        ),
    ] = None
    gender: Annotated[
        str | None, Meta(extra_json_schema={"enum": ["female", "male", "other", None]})
    ] = None
    city: str | None = None
    country: Annotated[str | None, Meta(description="ISO 3166: DE, FR.")] = None
    language: Annotated[str | None, Meta(description="BCP 47: de, en-GB.")] = None
    time_zone: Annotated[str | None, Meta(description="IANA: Europe/Berlin.")] = None
    registered_at: Annotated[
        str | None,
        Meta(
            description="Null or an empty text clears it.",
            extra_json_schema={
                "anyOf": [{"type": "string", "format": "date-time"}, *EMPTY]
            },
        ),
    ] = None
    attributes: Annotated[
        dict[str, str | float | bool | list[str | float | bool] | None],
        Meta(
            description="By code. The first value teaches the type (text, number, "
            "boolean, date, list); another type later is refused. Null removes one."
        ),
    ] = {}
    consents: ConsentsIn = msgspec.field(default_factory=ConsentsIn)
    devices: Annotated[
        list[DeviceIn],
        Meta(
            description="Added to those that are known, at most 50; a token has one "
            "owner."
        ),
    ] = []


class CustomerIn(CustomerChange, kw_only=True, omit_defaults=True):
    """A customer to create or update."""

    external_id: Annotated[str, Meta(max_length=128)]


class CustomersIn(msgspec.Struct):
    customers: Annotated[list[CustomerIn], Meta(max_length=1_000)]


class CustomerResult(msgspec.Struct, omit_defaults=True):
    """What became of one item. `errors` tells everything that is wrong with it."""

    index: int
    external_id: str | None
    status: Annotated[
        str, Meta(extra_json_schema={"enum": ["created", "updated", "rejected"]})
    ]
    code: str = ""
    field: str = ""
    message: str = ""
    errors: list[FieldProblem] = []
    warnings: list[FieldProblem] = []


class CustomersAnswer(msgspec.Struct):
    accepted: int
    created: int
    updated: int
    rejected: int
    results: list[CustomerResult]


CHANGE = {
    "first_name": "Anna",
    "last_name": "Berg",
    "email": "anna@example.com",
    "phone": "+4915112345678",
    "birth_date": "1990-05-01",
    "gender": "female",
    "city": "Berlin",
    "country": "DE",
    "language": "de",
    "time_zone": "Europe/Berlin",
    "registered_at": "2024-01-02T10:00:00Z",
    "attributes": {"tier": "gold"},
    "consents": {
        "email": {
            "granted": True,
            "at": "2026-11-20T10:15:00+03:00",
            "origin": "web form",
        },
        "sms": True,
        "push": False,
        "categories": {"news": {"email": True}},
    },
    "devices": [{"platform": "android", "token": "dGhpcyBpcyBhIHRva2Vu"}],
}
CUSTOMER = {
    "external_id": "C-1001",
    **CHANGE,
    "consents": {
        "email": True,
        "sms": True,
        "push": False,
        "categories": {"news": {"email": True}},
    },
    "email_is_valid": True,
    "phone_is_valid": True,
    "former_ids": [],
    "is_stub": False,
    "created_at": "2026-11-20T07:15:00Z",
    "updated_at": "2026-11-20T07:15:00Z",
}


#: What a customer is shown with when it is asked for: see `include`.
MORE = ("consent_details", "consent_history")
MOST_CHANGES = 1_000
INCLUDE = OpenApiParameter(
    "include",
    {
        "type": "string",
        "pattern": "^({0}(,{0})*)?$".format("(consent_details|consent_history)"),
    },
    description="More to be told, separated by commas: `consent_details` (the answers "
    "with time and origin), `consent_history` (all there were).",
)


class OneCustomer(ApiView):
    scopes = {"GET": READ, "PUT": WRITE}
    parameters = frozenset({"include"})

    @operation(
        name="readCustomer",
        tag="Customers",
        summary="Read a customer",
        description="Who they are and how they may be reached. In the address, the ID "
        "is percent-encoded where it has to be. An ID that begins or ends with a "
        "slash, or ends like an address below this one (`/events`), cannot stand in an "
        "address; `POST /customers` takes any. An ID that was merged into another one "
        "leads to the customer who was kept.",
        parameters=[INCLUDE],
        answers={200: CustomerOut},
        example=CUSTOMER,
        problems=(400, 404),
    )
    def get(self, request: Request, external_id: str) -> Response:
        wanted = _read_include(request)
        customer = find_customer(external_id)
        shown = customer_out(customer)
        if "consent_details" in wanted:
            shown.consent_details = consent_details(customer)
        if "consent_history" in wanted:
            shown.consent_history = consent_history(customer)
        return Response(shown)

    @operation(
        name="putCustomer",
        tag="Customers",
        summary="Create or update a customer",
        description="Changes only what the body names; null clears. Answers 201 when "
        "the customer was created and 200 when they were known, with the customer as "
        "they are now. A key without the scope `read` is told no more than the ID.",
        body=CustomerChange,
        body_example=CHANGE,
        answers={200: CustomerOut, 201: CustomerOut},
        example=CUSTOMER,
        problems=(404, 409),
    )
    def put(self, request: Request, external_id: str) -> Response:
        body = read_object(request)
        if body.get("external_id", external_id) != external_id:
            raise Invalid(
                "“external_id” is another one than in the address. Leave it out.",
                field="external_id",
            )
        may_read = READ in caller_of(request).scopes
        [result] = upsert_customers(
            [body | {"external_id": external_id}],
            origin=caller_of(request).source.name,
            now=timezone.now(),
            name_others=may_read,
        ).results
        if result.errors:
            raise _all_of(result.errors)
        shown = CustomerOut(external_id)
        if may_read:
            shown = customer_out(find_customer(external_id))
        if result.warnings:
            shown.warnings = [_problem(warning) for warning in result.warnings]
        return Response(shown, status=201 if result.status == "created" else 200)


class Customers(ApiView):
    scopes = {"POST": WRITE}

    @operation(
        name="postCustomers",
        tag="Customers",
        summary="Create or update up to 1,000 customers",
        description="Takes one customer, or up to 1,000 as "
        '`{"customers": [...]}`. Each is created or updated; only what it names '
        "changes, and null clears. A bad item spoils no other and tells everything "
        "that is wrong with it. A warning means "
        "that something was kept and should be looked at: `contact_invalid` a phone "
        "number that cannot be, `contact_shared` an e-mail that another customer has "
        "too, `customer_merged` a former ID. 202 means committed; when every item was "
        "rejected, the status is 422 and the body is the same.",
        body=(CustomerIn, CustomersIn),
        body_example={"customers": [{"external_id": "C-1001", **CHANGE}]},
        answers={202: CustomersAnswer, 422: CustomersAnswer},
        example={
            "accepted": 1,
            "created": 1,
            "updated": 0,
            "rejected": 0,
            "results": [{"index": 0, "external_id": "C-1001", "status": "created"}],
        },
    )
    def post(self, request: Request) -> Response:
        upserted = upsert_customers(
            read_items(request, "customers"),
            origin=caller_of(request).source.name,
            now=timezone.now(),
            name_others=READ in caller_of(request).scopes,
        )
        created, updated = upserted.count("created"), upserted.count("updated")
        rejected = upserted.count("rejected")
        answer = CustomersAnswer(
            accepted=created + updated,
            created=created,
            updated=updated,
            rejected=rejected,
            results=[_result_out(result) for result in upserted.results],
        )
        all_rejected = rejected and not answer.accepted
        return Response(answer, status=422 if all_rejected else 202)


class MergeIn(msgspec.Struct):
    """Which customer becomes a part of the one in the address."""

    from_: Annotated[str, Meta(max_length=128)] = msgspec.field(name="from")


class MergeAnswer(msgspec.Struct):
    """What a merge did, now or when it was first asked for."""

    external_id: Annotated[
        str, Meta(description="The customer to whom both IDs lead now.")
    ]
    former_id: str
    merged_at: datetime
    moved: Annotated[
        dict[str, int],
        Meta(
            description="How much moved: events, messages, runs, devices, consents. "
            "`events_twice` were the same under both and are counted once; "
            "`events_renamed` had an ID that the kept one has for another event; "
            "`runs_ended` would have written to one person twice."
        ),
    ]


class MergeCustomers(ApiView):
    scopes = {"POST": WRITE}

    @operation(
        name="mergeCustomers",
        tag="Customers",
        summary="Merge another customer into this one",
        description="For one person who is known by two IDs. The customer in the "
        "address is kept with their values; gaps are filled from the other. Events, "
        "messages, runs, consents (the newest answer holds) and devices of both are "
        "theirs afterwards, and the other ID leads to them for ever: in events, in "
        "changes and in addresses. Asked for again, it changes nothing and answers the "
        "same. It cannot be undone.",
        body=MergeIn,
        body_example={"from": "C-2002"},
        answers={200: MergeAnswer},
        example={
            "external_id": "C-1001",
            "former_id": "C-2002",
            "merged_at": "2026-11-20T07:15:00Z",
            "moved": {"events": 12, "messages": 3, "consents": 1},
        },
        problems=(404, 409),
    )
    def post(self, request: Request, external_id: str) -> Response:
        merged = merge(
            external_id,
            _read_from(read_object(request)),
            by=caller_of(request).source.name,
            now=timezone.now(),
        )
        return Response(
            MergeAnswer(
                external_id=merged.external_id,
                former_id=merged.former_id,
                merged_at=merged.merged_at,
                moved=merged.moved,
            )
        )


def _read_from(body: dict[str, Any]) -> str:
    for name in body:
        if name != "from":
            raise Invalid(
                f'“{name}” is not known. Send {{"from": "<external_id>"}}.',
                field=name,
                code="key_unknown",
            )
    if "from" not in body:
        raise Invalid(
            "Tell the external_id of the other customer in “from”.",
            field="from",
            code="required",
        )
    return check_external_id(body["from"], "from")


def _read_include(request: Request) -> set[str]:
    text = read_text(request, "include")
    wanted = set(text.split(",")) if text else set()
    if unknown := wanted.difference(MORE):
        raise BadParameter(
            f"“{min(unknown)}” cannot be included. There are {' and '.join(MORE)}.",
            field="include",
        )
    return wanted


def find_customer(external_id: str) -> Customer:
    """The customer with this ID, now or formerly; or NotFound."""
    with suppress(Invalid):
        check_external_id(external_id)
        customer = Customer.objects.filter(external_id=external_id).first()
        if customer is None:
            former = {"former_ids__external_id": external_id}
            customer = Customer.objects.filter(**former).first()
        if customer is not None:
            return customer
    raise NotFound(f"There is no customer “{external_id}”.")


def customer_out(customer: Customer) -> CustomerOut:
    """The customer as the API shows them."""
    return customers_out([customer])[0]


def customers_out(customers: Sequence[Customer]) -> list[CustomerOut]:
    """Customers as the API shows them. Three queries, however many."""
    answered = Consent.objects.select_related("category").order_by("category__code")
    prefetch_related_objects(
        customers,
        Prefetch("consents", answered, "answers"),
        Prefetch("devices", Device.objects.order_by("pk")),
        "former_ids",
    )
    return [_customer_out(customer) for customer in customers]


def _customer_out(customer: Any) -> CustomerOut:
    given: dict[str, bool] = {}
    categories: dict[str, dict[str, bool]] = {}
    for one in customer.answers:
        of = categories.setdefault(one.category.code, {}) if one.category else given
        of[one.channel] = one.is_granted
    return CustomerOut(
        external_id=customer.external_id,
        first_name=customer.first_name or None,
        last_name=customer.last_name or None,
        email=customer.email or None,
        email_is_valid=customer.email_is_valid,
        phone=customer.phone or None,
        phone_is_valid=customer.phone_is_valid,
        birth_date=customer.birth_date,
        gender=customer.gender or None,
        city=customer.city or None,
        country=customer.country or None,
        language=customer.language or None,
        time_zone=customer.time_zone or None,
        registered_at=customer.registered_at,
        attributes=customer.attributes,
        consents=ConsentsOut(
            **{channel: given.get(channel) for channel in Channel.values},
            categories=categories or msgspec.UNSET,
        ),
        devices=[DeviceShape(d.platform, d.token) for d in customer.devices.all()],
        former_ids=[former.external_id for former in customer.former_ids.all()],
        is_stub=customer.is_stub,
        created_at=customer.created_at,
        updated_at=customer.updated_at,
    )


def consent_details(customer: Customer) -> list[ConsentDetail]:
    """The answers that hold, with their times and origins. One query."""
    rows = Consent.objects.filter(customer=customer).order_by(
        F("category__code").asc(nulls_first=True), "channel"
    )
    return [
        ConsentDetail(*row)
        for row in rows.values_list(
            "channel", "category__code", "is_granted", "changed_at", "origin"
        )
    ]


def consent_history(customer: Customer) -> list[ConsentStep]:
    """All the answers there were, newest first, as far as one can read. One query."""
    rows = ConsentChange.objects.filter(customer=customer).order_by(
        "-changed_at", "-pk"
    )
    return [
        ConsentStep(*row)
        for row in rows.values_list(
            "channel",
            "category__code",
            "is_granted",
            "changed_at",
            "origin",
            "recorded_at",
        )[:MOST_CHANGES]
    ]


def _result_out(result: Result) -> CustomerResult:
    first = result.errors[0] if result.errors else None
    return CustomerResult(
        index=result.index,
        external_id=result.external_id,
        status=result.status,
        code=first.code if first else "",
        field=first.field if first else "",
        message=first.message if first else "",
        errors=[_problem(error) for error in result.errors],
        warnings=[_problem(warning) for warning in result.warnings],
    )


def _problem(error: UserError) -> FieldProblem:
    return FieldProblem(error.field, error.code, error.message)


def _all_of(errors: list[UserError]) -> UserError:
    return errors[0] if len(errors) == 1 else Several(errors)
