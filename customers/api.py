"""The API's door for customers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any

import msgspec
from django.db.models import Prefetch, prefetch_related_objects
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from customers.models import Channel, Consent, Customer, Device
from customers.upsert import Result, upsert_customers
from customers.wire import check_external_id
from smartcomm.core.api import ApiView
from smartcomm.core.bodies import read_items, read_object
from smartcomm.core.errors import Invalid, NotFound, Several, UserError
from smartcomm.core.openapi import operation
from smartcomm.core.problems import FieldProblem
from smartcomm.core.scopes import caller_of

Meta = msgspec.Meta

# The scopes are defined with the keys, in an app above this one.
READ = "read"
WRITE = "customers:write"


class DeviceShape(msgspec.Struct):
    """An address for push."""

    platform: Annotated[
        str, Meta(extra_json_schema={"enum": ["android", "ios", "web"]})
    ]
    token: str


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
    consents: Annotated[
        dict[str, bool | None] | msgspec.UnsetType,
        Meta(description="Channel → yes, no, or null when they never answered."),
    ] = msgspec.UNSET
    devices: list[DeviceShape] | msgspec.UnsetType = msgspec.UNSET
    is_stub: Annotated[
        bool | msgspec.UnsetType,
        Meta(description="Made from an event, before anybody told who this is."),
    ] = msgspec.UNSET
    created_at: datetime | msgspec.UnsetType = msgspec.UNSET
    updated_at: datetime | msgspec.UnsetType = msgspec.UNSET


class CustomerChange(msgspec.Struct, omit_defaults=True):
    """What is to be known of a customer. Only what is named changes; null clears."""

    first_name: Annotated[str | None, Meta(extra_json_schema={"maxLength": 150})] = None
    last_name: Annotated[str | None, Meta(extra_json_schema={"maxLength": 150})] = None
    email: str | None = None
    phone: Annotated[
        str | None,
        Meta(description="With its country code, or as one dials it in `country`."),
    ] = None
    birth_date: date | None = None
    gender: Annotated[
        str | None, Meta(extra_json_schema={"enum": ["female", "male", "other", None]})
    ] = None
    city: str | None = None
    country: Annotated[str | None, Meta(description="ISO 3166: DE, FR.")] = None
    language: Annotated[str | None, Meta(description="BCP 47: de, en-GB.")] = None
    time_zone: Annotated[str | None, Meta(description="IANA: Europe/Berlin.")] = None
    registered_at: datetime | None = None
    attributes: Annotated[
        dict[str, str | float | bool | None],
        Meta(
            description="By code. The first value teaches the type (text, number, "
            "boolean, date); another type later is refused. Null removes one."
        ),
    ] = {}
    consents: Annotated[
        dict[str, bool | None],
        Meta(description="By channel (email, sms, push). Null forgets the answer."),
    ] = {}
    devices: Annotated[
        list[DeviceShape],
        Meta(description="Added to those that are known; a token has one owner."),
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
    "consents": {"email": True, "sms": True, "push": False},
    "devices": [{"platform": "android", "token": "dGhpcyBpcyBhIHRva2Vu"}],
}
CUSTOMER = {
    "external_id": "C-1001",
    **CHANGE,
    "email_is_valid": True,
    "phone_is_valid": True,
    "is_stub": False,
    "created_at": "2026-11-20T07:15:00Z",
    "updated_at": "2026-11-20T07:15:00Z",
}


class OneCustomer(ApiView):
    scopes = {"GET": READ, "PUT": WRITE}

    @operation(
        name="readCustomer",
        tag="Customers",
        summary="Read a customer",
        description="Who they are and how they may be reached. In the address, the ID "
        "is percent-encoded where it has to be. An ID that begins or ends with a "
        "slash, or ends like an address below this one (`/events`), cannot stand in an "
        "address; `POST /customers` takes any.",
        answers={200: CustomerOut},
        example=CUSTOMER,
        problems=(400, 404),
    )
    def get(self, request: Request, external_id: str) -> Response:
        return Response(customer_out(find_customer(external_id)))

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
        problems=(409,),
    )
    def put(self, request: Request, external_id: str) -> Response:
        body = read_object(request)
        if body.get("external_id", external_id) != external_id:
            raise Invalid(
                "“external_id” is another one than in the address. Leave it out.",
                field="external_id",
            )
        [result] = upsert_customers(
            [body | {"external_id": external_id}],
            origin=caller_of(request).source.name,
            now=timezone.now(),
        ).results
        if result.errors:
            raise _all_of(result.errors)
        shown = CustomerOut(external_id)
        if READ in caller_of(request).scopes:
            shown = customer_out(find_customer(external_id))
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
        "that something was kept, but is of no use yet, such as a phone number that "
        "cannot be. 202 means committed; when every item was rejected, the status is "
        "422 and the body is the same.",
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


def find_customer(external_id: str) -> Customer:
    """The customer with this ID, or NotFound."""
    try:
        return Customer.objects.get(external_id=check_external_id(external_id))
    except (Customer.DoesNotExist, Invalid) as error:
        raise NotFound(f"There is no customer “{external_id}”.") from error


def customer_out(customer: Customer) -> CustomerOut:
    """The customer as the API shows them."""
    return customers_out([customer])[0]


def customers_out(customers: Sequence[Customer]) -> list[CustomerOut]:
    """Customers as the API shows them. Two queries, however many."""
    prefetch_related_objects(
        customers,
        Prefetch("consents", Consent.objects.filter(category=None), "whole_channels"),
        Prefetch("devices", Device.objects.order_by("pk")),
    )
    return [_customer_out(customer) for customer in customers]


def _customer_out(customer: Any) -> CustomerOut:
    given = {one.channel: one.is_granted for one in customer.whole_channels}
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
        consents={channel: given.get(channel) for channel in Channel.values},
        devices=[DeviceShape(d.platform, d.token) for d in customer.devices.all()],
        is_stub=customer.is_stub,
        created_at=customer.created_at,
        updated_at=customer.updated_at,
    )


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
