"""Who they are and how they may be reached."""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.indexes import GinIndex, OpClass
from django.db import models
from django.db.models.functions import MD5, Upper

from smartcomm.core.db import CustomerOwned


class Channel(models.TextChoices):
    EMAIL = "email", "E-mail"
    SMS = "sms", "SMS"
    PUSH = "push", "Push"

    @property
    def word(self) -> str:
        """In the middle of a sentence: “said no to e-mail”."""
        return self.label if self is Channel.SMS else self.label.lower()


class Customer(models.Model):
    """A person the business knows; identified outside by `external_id`.

    A text that is not known is empty, never NULL, so that a comparison in a
    rule is always true or false.
    """

    class Gender(models.TextChoices):
        FEMALE = "female", "Female"
        MALE = "male", "Male"
        OTHER = "other", "Other"

    external_id = models.CharField("ID", max_length=128, unique=True)
    first_name = models.CharField(max_length=150, blank=True)
    last_name = models.CharField(max_length=150, blank=True)
    email = models.CharField("e-mail", max_length=254, blank=True)
    email_is_valid = models.BooleanField(
        "e-mail is valid", default=False, editable=False
    )
    phone = models.CharField(max_length=64, blank=True)
    phone_is_valid = models.BooleanField(
        "phone is valid", default=False, editable=False
    )
    birth_date = models.DateField(null=True, blank=True)
    gender = models.CharField(max_length=16, blank=True, choices=Gender)
    city = models.CharField(max_length=150, blank=True)
    country = models.CharField(
        max_length=2, blank=True, help_text="Two letters, as in ISO 3166: DE, FR."
    )
    language = models.CharField(
        max_length=35, blank=True, help_text="As in BCP 47: de, en-GB."
    )
    time_zone = models.CharField(
        max_length=64, blank=True, help_text="As in the IANA list: Europe/Berlin."
    )
    registered_at = models.DateTimeField(null=True, blank=True)
    attributes = models.JSONField(default=dict, blank=True)
    is_stub = models.BooleanField(
        default=False,
        editable=False,
        help_text="Made from an event, before anybody told who this is.",
    )
    created_at = models.DateTimeField("known since", auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        indexes: ClassVar = [
            # For conditions on declared attributes: attributes @> {...}.
            GinIndex(
                fields=["attributes"],
                name="customer_attributes",
                opclasses=["jsonb_path_ops"],
            ),
            # For the search box of the admin, which compares the beginnings of
            # words without regard to case, and for finding by contact.
            *[
                models.Index(
                    OpClass(Upper(field), name="text_pattern_ops"),
                    name=f"customer_{field}_search",
                )
                for field in (
                    "external_id",
                    "first_name",
                    "last_name",
                    "email",
                    "phone",
                )
            ],
            models.Index(
                fields=["email"], name="customer_email", condition=~models.Q(email="")
            ),
            models.Index(
                fields=["phone"], name="customer_phone", condition=~models.Q(phone="")
            ),
        ]

    def __str__(self) -> str:
        return self.full_name or self.external_id

    @property
    def full_name(self) -> str:
        return f"{self.first_name} {self.last_name}".strip()


class FormerId(models.Model):
    """An ID that a customer had before being merged into another one.

    Whatever still comes for the old ID is about the customer who was kept.
    """

    external_id = models.CharField("former ID", max_length=128, unique=True)
    customer = models.ForeignKey(Customer, models.CASCADE, related_name="former_ids")
    #: The profile as it was, so that nothing of it is lost.
    profile = models.JSONField(default=dict)
    #: How much of what moved: {"events": 12, ...}.
    moved = models.JSONField(default=dict)
    merged_by = models.CharField(max_length=150, blank=True)
    merged_at = models.DateTimeField()

    class Meta:
        verbose_name = "former ID"
        ordering: ClassVar = ["-merged_at", "-id"]

    def __str__(self) -> str:
        return self.external_id


class Attribute(models.Model):
    """A named, typed fact about customers, beyond those every customer has.

    The values stand in `Customer.attributes` under `code`.
    """

    class Type(models.TextChoices):
        STRING = "string", "Text"
        NUMBER = "number", "Number"
        BOOLEAN = "boolean", "Yes or no"
        DATE = "date", "Date"
        LIST = "list", "List"

    code = models.CharField(max_length=64, unique=True)
    label = models.CharField(max_length=150, blank=True)
    type = models.CharField(max_length=16, choices=Type, default=Type.STRING)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["code"]

    def __str__(self) -> str:
        return self.label or self.code


class Device(CustomerOwned):
    """An address for push."""

    class Platform(models.TextChoices):
        ANDROID = "android", "Android"
        IOS = "ios", "iOS"
        WEB = "web", "Web"

    customer = models.ForeignKey(Customer, models.CASCADE, related_name="devices")
    platform = models.CharField(max_length=16, choices=Platform)
    token = models.CharField(max_length=4096)
    is_valid = models.BooleanField(
        default=True, help_text="Off once the push service has said that it is gone."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint("customer", MD5("token"), name="device_once")
        ]
        indexes: ClassVar = [
            # For taking a token from whoever had it before: customers/devices.py.
            models.Index(MD5("token"), name="device_token"),
        ]

    def __str__(self) -> str:
        return f"{self.get_platform_display()} {self.token[:12]}…"


class MailingCategory(models.Model):
    """A kind of mailing that a customer may take or leave, on each channel."""

    code = models.SlugField(max_length=64, unique=True)
    name = models.CharField(max_length=150)
    description = models.TextField(blank=True)
    is_visible = models.BooleanField(
        "shown to customers",
        default=True,
        help_text="A hidden category cannot be left by the customer.",
    )
    is_active = models.BooleanField(default=True)
    default_email = models.BooleanField("subscribed to e-mail by default", default=True)
    default_sms = models.BooleanField("subscribed to SMS by default", default=True)
    default_push = models.BooleanField("subscribed to push by default", default=True)

    class Meta:
        ordering: ClassVar = ["name"]
        verbose_name_plural = "mailing categories"

    def __str__(self) -> str:
        return self.name


class Consent(CustomerOwned):
    """A customer's yes or no for one channel, or for one category on it."""

    customer = models.ForeignKey(Customer, models.CASCADE, related_name="consents")
    channel = models.CharField(max_length=8, choices=Channel)
    category = models.ForeignKey(
        MailingCategory,
        models.CASCADE,
        null=True,
        blank=True,
        help_text="Empty: the channel as a whole.",
    )
    is_granted = models.BooleanField("yes")
    origin = models.CharField(
        max_length=150, blank=True, help_text="Who told us: a source, or a person."
    )
    changed_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["customer", "channel", "category"],
                name="consent_once",
                nulls_distinct=False,
                violation_error_message="There is an answer for this channel already.",
            )
        ]

    def __str__(self) -> str:
        answer = "yes" if self.is_granted else "no"
        return f"{self.get_channel_display()}: {answer}"


class ConsentChange(CustomerOwned):
    """What a customer once answered. Only ever added to.

    An answer that arrived late is here as well, though a newer one holds.
    """

    customer = models.ForeignKey(
        Customer, models.CASCADE, db_index=False, related_name="consent_changes"
    )
    channel = models.CharField(max_length=8, choices=Channel)
    category = models.ForeignKey(
        MailingCategory, models.CASCADE, null=True, blank=True, db_index=False
    )
    is_granted = models.BooleanField(
        "yes", null=True, help_text="Empty: the answer was forgotten."
    )
    origin = models.CharField(max_length=150, blank=True)
    changed_at = models.DateTimeField(help_text="When the customer answered.")
    recorded_at = models.DateTimeField(help_text="When we were told.")

    class Meta:
        constraints: ClassVar = [
            # An answer that is told again is one answer.
            models.UniqueConstraint(
                fields=["customer", "changed_at", "channel", "category", "is_granted"],
                name="consent_change_once",
                nulls_distinct=False,
            )
        ]

    def __str__(self) -> str:
        answer = {True: "yes", False: "no", None: "forgotten"}[self.is_granted]
        return f"{self.get_channel_display()}: {answer}"


class SharedContact(models.Model):
    """An e-mail or a phone that several customers have: a family, or one person twice.

    Kept as customers are told, so that staff can read the list without anybody
    looking through all customers: see customers/sharing.py.
    """

    class Kind(models.TextChoices):
        EMAIL = "email", "E-mail"
        PHONE = "phone", "Phone"

    kind = models.CharField(max_length=8, choices=Kind)
    value = models.CharField("contact", max_length=254)
    found_at = models.DateTimeField("found", auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["value", "kind"], name="shared_contact_once"
            )
        ]

    def __str__(self) -> str:
        return self.value
