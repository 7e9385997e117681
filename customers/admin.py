"""Customers, their attributes and mailing categories, for marketing staff.

The page of one customer is here the form to edit them. What a person wants to see of a
customer (time line, segments, messages) comes from apps above this one, so the profile
page stands in smartcomm.site.profile, which replaces the registration of Customer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from unfold.decorators import display
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminNullBooleanSelectWidget,
    UnfoldAdminSingleDateWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from customers import search, sharing
from customers.attributes import MAX_ITEMS, MAX_TEXT, is_date
from customers.consent import remember
from customers.contacts import normalise_email, normalise_phone
from customers.merging import current_ids
from customers.models import Attribute, Consent, Customer, Device, MailingCategory
from customers.wire import COLUMNS
from smartcomm.core.admin import BigListMixin, ModelAdmin, SinceFilter, TabularInline
from smartcomm.core.errors import Invalid
from smartcomm.core.look import badge, quiet

# --- the form ---------------------------------------------------------------------

#: The form field for a declared attribute is called attribute_<code>.
PREFIX = "attribute_"


def _text_field(**common: Any) -> forms.Field:
    return forms.CharField(widget=UnfoldAdminTextInputWidget(), **common)


def _number_field(**common: Any) -> forms.Field:
    widget = UnfoldAdminDecimalFieldWidget(attrs={"step": "any"})
    return forms.FloatField(widget=widget, **common)


def _yes_no_field(**common: Any) -> forms.Field:
    return forms.NullBooleanField(widget=UnfoldAdminNullBooleanSelectWidget(), **common)


class _DateField(forms.DateField):
    """A date, or a date and time as a source may have sent it, kept as text."""

    def to_python(self, value: Any) -> Any:
        if value and is_date(str(value).strip()):
            return str(value).strip()
        day = super().to_python(value)
        return None if day is None else day.isoformat()


def _date_field(**common: Any) -> forms.Field:
    return _DateField(widget=UnfoldAdminSingleDateWidget(), **common)


class _ListField(forms.CharField):
    """One value a line. What stood there before keeps its type: a number stays one."""

    def __init__(self, **common: Any) -> None:
        super().__init__(
            widget=UnfoldAdminTextareaWidget(), help_text="One value a line.", **common
        )

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, list):
            return "\n".join(map(_line, value))
        return value

    def clean(self, value: Any) -> list[str]:
        lines = [line.strip() for line in super().clean(value).splitlines()]
        values = [line for line in lines if line]
        if len(values) > MAX_ITEMS or any(len(one) > MAX_TEXT for one in values):
            raise ValidationError(
                f"At most {MAX_ITEMS} values, of up to {MAX_TEXT} characters each."
            )
        return values

    def has_changed(self, initial: Any, data: Any) -> bool:
        lines = [line.strip() for line in (data or "").splitlines() if line.strip()]
        shown = (self.prepare_value(initial or []) or "").splitlines()
        return bool(lines != [line.strip() for line in shown if line.strip()])


def _line(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


FIELDS: dict[str, Callable[..., forms.Field]] = {
    Attribute.Type.STRING: _text_field,
    Attribute.Type.NUMBER: _number_field,
    Attribute.Type.BOOLEAN: _yes_no_field,
    Attribute.Type.DATE: _date_field,
    Attribute.Type.LIST: _ListField,
}


#: The columns that are read as the API reads them, and what is said if they cannot be.
NOT_SO = {
    "birth_date": "Choose a date between 1850 and today.",
    "country": "Choose two letters of ISO 3166, such as DE, FR or GB.",
    "language": "Choose a language as in BCP 47, such as de or en-GB.",
    "time_zone": "Choose a name of the IANA list, such as Europe/Berlin.",
}


class CustomerForm(forms.ModelForm):
    """A customer, with a field for each declared attribute."""

    attributes_declared: ClassVar[list[Attribute]] = []

    class Meta:
        model = Customer
        exclude: ClassVar = ["attributes"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        instance = kwargs.get("instance")
        if instance is not None:
            kwargs["initial"] = {
                **{
                    PREFIX + attribute.code: instance.attributes.get(attribute.code)
                    for attribute in self.attributes_declared
                },
                **(kwargs.get("initial") or {}),
            }
        super().__init__(*args, **kwargs)

    @classmethod
    def with_attributes(cls) -> type[CustomerForm]:
        """This form, with the attributes that are declared just now."""
        declared = list(Attribute.objects.all())
        fields = {
            PREFIX + attribute.code: FIELDS[attribute.type](
                label=str(attribute), required=False
            )
            for attribute in declared
        }
        return type("CustomerForm", (cls,), {**fields, "attributes_declared": declared})

    def clean(self) -> dict[str, Any]:
        """What a source may not tell of a customer, staff may not either."""
        data: dict[str, Any] = super().clean() or self.cleaned_data
        if merged := current_ids([data.get("external_id", "")]):
            [(_, kept)] = merged.values()
            self.add_error(
                "external_id",
                f"This is a former ID of “{kept}”. Choose another one.",
            )
        for name, words in NOT_SO.items():
            if name not in data:
                continue
            try:
                data[name] = COLUMNS[name](name, data[name], timezone.now())
            except Invalid as error:
                self.add_error(name, ValidationError(words, code=error.code))
        return data

    def save(self, commit: bool = True) -> Any:
        values = dict(self.instance.attributes)
        for attribute in self.attributes_declared:
            name = PREFIX + attribute.code
            if name not in self.changed_data:
                continue
            value = self.cleaned_data[name]
            if value is None or value == "" or value == []:
                values.pop(attribute.code, None)
            elif isinstance(value, list):
                before = values.get(attribute.code)
                typed = {_line(one): one for one in before or []}
                values[attribute.code] = [typed.get(one, one) for one in value]
            else:
                values[attribute.code] = _as_json(value)
        self.instance.attributes = values
        return super().save(commit)


def _as_json(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# --- consents and devices ---------------------------------------------------------


class ConsentFormSet(forms.BaseInlineFormSet):
    def clean(self) -> None:
        """Two answers to one question are told here; the database would only fail."""
        super().clean()
        seen: set[tuple[Any, Any]] = set()
        for form in self.forms:
            data = getattr(form, "cleaned_data", None)
            if not data or data.get("DELETE") or "channel" not in data:
                continue
            question = (data["channel"], data.get("category"))
            if question in seen:
                raise ValidationError(
                    "There are two answers for the same channel and category. "
                    "Remove one of them."
                )
            seen.add(question)


class ConsentInline(TabularInline):
    model = Consent
    formset = ConsentFormSet
    fields: ClassVar = ["channel", "category", "is_granted", "origin", "changed_at"]
    readonly_fields: ClassVar = ["origin", "changed_at"]
    tab = True


class DeviceInline(TabularInline):
    model = Device
    fields: ClassVar = ["platform", "token", "is_valid", "updated_at"]
    readonly_fields: ClassVar = ["updated_at"]
    tab = True


# --- the list ---------------------------------------------------------------------


class ContactFilter(admin.SimpleListFilter):
    """Customers by how one of their addresses is."""

    title: str
    parameter_name: str
    field: ClassVar[str]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("valid", "Valid"), ("invalid", "Invalid"), ("none", "Not known")]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[Customer]
    ) -> QuerySet[Customer]:
        match self.value():
            case "valid":
                return queryset.filter(**{f"{self.field}_is_valid": True})
            case "invalid":
                known = queryset.exclude(**{self.field: ""})
                return known.filter(**{f"{self.field}_is_valid": False})
            case "none":
                return queryset.filter(**{self.field: ""})
        return queryset


class EmailFilter(ContactFilter):
    title, parameter_name, field = "e-mail", "email_is", "email"


class PhoneFilter(ContactFilter):
    title, parameter_name, field = "phone", "phone_is", "phone"


class KnownSinceFilter(SinceFilter):
    title = "known since"
    time = "created_at"


class StubFilter(admin.SimpleListFilter):
    title = "what is known"
    parameter_name = "stub"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("0", "Told by a source"), ("1", "Only an ID, from an event")]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[Customer]
    ) -> QuerySet[Customer]:
        if self.value() in ("0", "1"):
            return queryset.filter(is_stub=self.value() == "1")
        return queryset


def contact(address: str, is_valid: bool, what: str) -> str:
    """An address as it is shown in lists: with a warning if it is not written to."""
    if not address:
        return quiet("–")
    if is_valid:
        return format_html('<span class="sc-contact">{}</span>', address)
    return format_html(
        '<span class="sc-contact sc-contact-bad" title="{}">'
        '<span class="material-symbols-outlined">warning</span>{}</span>',
        f"This {what} is not valid, so it is not written to.",
        address,
    )


@admin.register(Customer)
class CustomerAdmin(BigListMixin, ModelAdmin):
    list_display: ClassVar = ["who", "id_", "email_", "phone_", "city", "known_since"]
    list_display_links: ClassVar = ["who", "id_"]
    list_filter: ClassVar = [EmailFilter, PhoneFilter, StubFilter, KnownSinceFilter]
    search_fields: ClassVar = ["external_id"]  # Switches the box on; see below.
    search_help_text = "The beginning of an ID, an e-mail, a phone number or a name"
    form = CustomerForm
    inlines: ClassVar = [ConsentInline, DeviceInline]
    actions: ClassVar[list[str]] = []

    # --- list

    @display(description="Name")
    def who(self, customer: Customer) -> str:
        if customer.full_name:
            return customer.full_name
        if customer.is_stub:
            return format_html(
                '<span class="sc-none">not known yet</span> {}', badge("only an ID")
            )
        return quiet("no name")

    @display(description="ID")
    def id_(self, customer: Customer) -> str:
        return customer.external_id

    @display(description="E-mail")
    def email_(self, customer: Customer) -> str:
        return contact(customer.email, customer.email_is_valid, "e-mail")

    @display(description="Phone")
    def phone_(self, customer: Customer) -> str:
        return contact(customer.phone, customer.phone_is_valid, "phone number")

    @display(description="Known since")
    def known_since(self, customer: Customer) -> str:
        day = date_format(timezone.localtime(customer.created_at))
        return format_html('<span class="sc-nowrap">{}</span>', day)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Customer], search_term: str
    ) -> tuple[QuerySet[Customer], bool]:
        return search.find(queryset, search_term), False

    # --- form

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        kwargs["form"] = CustomerForm.with_attributes()
        return super().get_form(request, obj, change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        codes = Attribute.objects.values_list("code", flat=True)
        attributes = [PREFIX + code for code in codes]
        if not self.has_change_permission(request, obj) and obj is not None:
            attributes = []  # They are shown on the profile; here they are form fields.
        return [
            (
                None,
                {
                    "fields": [
                        "external_id",
                        ("first_name", "last_name"),
                        ("birth_date", "gender"),
                        ("email", "phone"),
                        ("city", "country"),
                        ("language", "time_zone"),
                        "registered_at",
                    ]
                },
            ),
            *([("Attributes", {"fields": attributes})] if attributes else []),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        # The master system knows them by it: a changed ID would be another customer.
        return ["external_id"] if obj is not None else []

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Their events cannot be deleted one by one: erasing a customer is an
        # operation of its own, which leaves the counts.
        return False

    def save_model(
        self, request: HttpRequest, obj: Customer, form: Any, change: bool
    ) -> None:
        email = normalise_email(obj.email)
        phone = normalise_phone(obj.phone, country=obj.country)
        obj.email, obj.email_is_valid = email.value, email.is_valid
        obj.phone, obj.phone_is_valid = phone.value, phone.is_valid
        obj.is_stub = False
        super().save_model(request, obj, form, change)
        owners = sharing.look_again(
            [(kind, getattr(obj, kind)) for kind in sharing.KINDS],
            given_up=[
                (kind, form.initial.get(kind) or "")
                for kind in sharing.KINDS
                if kind in form.changed_data
            ],
        )
        for kind, told in (("email", email), ("phone", phone)):
            others = [
                one
                for one in owners.get((kind, told.value), [])
                if one != obj.external_id
            ]
            if others and kind in form.changed_data:
                what = "e-mail" if kind == "email" else "phone number"
                self.message_user(
                    request,
                    f"{sharing.named(others)} {'have' if others[1:] else 'has'} the "
                    f"same {what}. If that is one person, merge them.",
                    messages.WARNING,
                )
        for told, what in ((email, "e-mail"), (phone, "phone number")):
            if told.value and not told.is_valid:
                self.message_user(
                    request,
                    f"“{told.value}” is not a valid {what}. It is kept, and will not "
                    "be written to until somebody corrects it.",
                    messages.WARNING,
                )

    def save_formset(
        self, request: HttpRequest, form: Any, formset: Any, change: bool
    ) -> None:
        rows = formset.save(commit=False)
        now, origin = timezone.now(), f"staff: {request.user.get_username()}"
        gone = [row for row in formset.deleted_objects if isinstance(row, Consent)]
        answers = [row for row in rows if isinstance(row, Consent)]
        for row in (*gone, *answers):
            row.origin, row.changed_at = origin, now
        remember(gone, gone=True, now=now)
        for row in formset.deleted_objects:
            row.delete()
        for row in rows:
            row.save()
        remember(answers, now=now)
        formset.save_m2m()


# --- attributes and mailing categories --------------------------------------------


@admin.register(Attribute)
class AttributeAdmin(ModelAdmin):
    list_display: ClassVar = ["label_", "code", "type_", "created_at"]
    list_display_links: ClassVar = ["label_", "code"]
    search_fields: ClassVar = ["code", "label"]
    list_filter: ClassVar = ["type"]
    fields: ClassVar = ["code", "label", "type"]

    @display(description="Label", ordering="label")
    def label_(self, attribute: Attribute) -> str:
        return str(attribute)

    @display(description="Type", ordering="type", label=True)
    def type_(self, attribute: Attribute) -> str:
        return str(attribute.get_type_display())

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        # Rules, templates and the values themselves are found by the code.
        return ["code"] if obj is not None else []


@admin.register(MailingCategory)
class MailingCategoryAdmin(ModelAdmin):
    list_display: ClassVar = [
        "name",
        "code",
        "is_active",
        "is_visible",
        "default_email",
        "default_sms",
        "default_push",
    ]
    list_filter: ClassVar = ["is_active", "is_visible"]
    search_fields: ClassVar = ["name", "code"]
    prepopulated_fields: ClassVar = {"code": ["name"]}
    fieldsets: ClassVar = [
        (None, {"fields": ["name", "code", "description"]}),
        (None, {"fields": [("is_active", "is_visible")]}),
        (
            "Customers who never answered",
            {"fields": ["default_email", "default_sms", "default_push"]},
        ),
    ]

    def get_prepopulated_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return {} if obj is not None else self.prepopulated_fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ["code"] if obj is not None else []
