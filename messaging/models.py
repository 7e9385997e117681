"""Getting one message to one customer."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models.functions import MD5, Coalesce

from customers.models import Channel, Customer, MailingCategory
from events.models import Event, SystemEvent
from messaging import suppressions
from smartcomm.core.db import CustomerOwned


class Missing(models.TextChoices):
    """What to do when the event lacks a variable that the text uses."""

    SKIP = "skip", "Skip this customer, and say so"
    FAIL = "fail", "Fail this message, visibly"
    SEND = "send", "Send it with the place left empty"


class Text(models.Model):
    """What a template and a frozen content have in common, for all channels.

    E-mail uses subject, html and text; SMS uses text; push uses title, text,
    link and image.
    """

    channel = models.CharField(max_length=8, choices=Channel)
    subject = models.TextField(blank=True)
    html = models.TextField("HTML", blank=True)
    text = models.TextField(blank=True)
    title = models.TextField(blank=True)
    link = models.TextField(blank=True)
    image = models.TextField(blank=True)
    category = models.ForeignKey(
        MailingCategory, models.PROTECT, null=True, blank=True, related_name="+"
    )
    missing = models.CharField(
        "when a variable is missing",
        max_length=8,
        choices=Missing,
        default=Missing.SKIP,
    )

    class Meta:
        abstract = True


class Template(Text):
    """Text with variables, for one channel, kept to be used again."""

    name = models.CharField(max_length=150, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name


#: What is filled in, and what is decided, in Liquid.
VARIABLE = re.compile(r"\{\{.*?\}\}", re.DOTALL)
TAG = re.compile(r"\{%.*?%\}", re.DOTALL)


class Content(Text):
    """The text of a sending step, frozen when its version was published."""

    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        """Its first words, as nobody in particular would read them: “Thank you, …”."""
        text = self.subject or self.title or self.text
        return TAG.sub("", VARIABLE.sub("…", text)).strip()[:60]


class Message(CustomerOwned):
    """One text for one customer on one channel. The row is the queue.

    `run_id`, `campaign_id` and `step` tell who asked for it, in numbers only:
    a message outlives its campaign, and this app knows nothing of campaigns.
    """

    class Status(models.TextChoices):
        QUEUED = "queued", "Queued"
        SENDING = "sending", "Sending"
        SENT = "sent", "Sent"
        DELIVERED = "delivered", "Delivered"
        OPENED = "opened", "Opened"
        CLICKED = "clicked", "Clicked"
        FAILED = "failed", "Failed"
        SUPPRESSED = "suppressed", "Suppressed"
        UNKNOWN = "unknown", "Unknown"

    class Reason(models.TextChoices):
        """Why a message was suppressed."""

        NO_CONSENT = "no_consent", "No consent"
        NO_ADDRESS = "no_address", "No address"
        INVALID_ADDRESS = "invalid_address", "Invalid address"
        SUPPRESSED_ADDRESS = "suppressed_address", "Suppressed address"
        MISSING_VARIABLE = "missing_variable", "Missing variable"
        EXPIRED = "expired", "Too late to send"
        CANCELLED = "cancelled", "Cancelled"

    customer = models.ForeignKey(
        Customer,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="messages",
    )
    channel = models.CharField(max_length=8, choices=Channel)
    content = models.ForeignKey(Content, models.PROTECT, db_index=False)
    event = models.ForeignKey(
        Event, models.DO_NOTHING, null=True, db_constraint=False, db_index=False
    )
    system_event = models.ForeignKey(
        SystemEvent, models.DO_NOTHING, null=True, db_constraint=False, db_index=False
    )
    run_id = models.BigIntegerField(null=True)
    campaign_id = models.BigIntegerField(null=True)
    version_id = models.BigIntegerField(null=True)
    step = models.CharField(max_length=64, blank=True)
    is_test = models.BooleanField(default=False)

    status = models.CharField(max_length=10, choices=Status, default=Status.QUEUED)
    reason = models.CharField(max_length=24, blank=True, choices=Reason)
    detail = models.TextField(
        blank=True, help_text="The reason, or the provider's error, in words."
    )
    due_at = models.DateTimeField(help_text="Not handed over before this time.")
    expires_at = models.DateTimeField(help_text="Not handed over after this time.")
    leased_until = models.DateTimeField(null=True)
    lease = models.UUIDField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    sending_since = models.DateTimeField(null=True)
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    #: When it first came that far; `sent_at` stays empty for what did not go out.
    delivered_at = models.DateTimeField(null=True)
    opened_at = models.DateTimeField(null=True)
    clicked_at = models.DateTimeField(null=True)
    is_settled = models.BooleanField(
        default=False, help_text="Whoever asked for it has been told how it ended."
    )

    address = models.TextField(blank=True)
    subject = models.TextField(blank=True)
    body = models.TextField(blank=True)
    html = models.TextField("HTML", blank=True)
    link = models.TextField(blank=True)
    image = models.TextField(blank=True)
    provider = models.CharField(max_length=64, blank=True)
    provider_id = models.CharField(max_length=255, blank=True)

    FINAL: ClassVar = [
        Status.SENT,
        Status.DELIVERED,
        Status.OPENED,
        Status.CLICKED,
        Status.FAILED,
        Status.SUPPRESSED,
        Status.UNKNOWN,
    ]
    #: Handed over to the provider, as far as the report is concerned.
    WENT_OUT: ClassVar = [
        Status.SENT,
        Status.DELIVERED,
        Status.OPENED,
        Status.CLICKED,
    ]

    class Meta:
        constraints: ClassVar = [
            # A run asks once for the message of a step.
            models.UniqueConstraint(
                fields=["customer", "run_id", "step"], name="message_once"
            ),
            # Whoever holds the lease needs to look at nothing else.
            models.CheckConstraint(
                condition=models.Q(lease__isnull=True) | models.Q(status="queued"),
                name="message_leased_is_queued",
            ),
        ]
        indexes: ClassVar = [
            # For claiming, lane by lane: what is sent, nearly everything, is left out.
            models.Index(
                Coalesce("campaign_id", 0),
                "channel",
                "due_at",
                "id",
                name="message_queue",
                condition=models.Q(status="queued"),
            ),
            # For closing what a dead worker left.
            models.Index(
                fields=["sending_since"],
                name="message_sending",
                condition=models.Q(status="sending"),
            ),
            # For telling the runs that wait for their messages.
            models.Index(
                fields=["id"],
                name="message_unsettled",
                condition=models.Q(is_settled=False, run_id__isnull=False)
                & ~models.Q(status__in=["queued", "sending"]),
            ),
            # For the time line of a customer, and lists by customer.
            models.Index(fields=["customer", "-id"], name="message_history"),
            # For reports and lists by campaign.
            models.Index(
                fields=["campaign_id", "step", "status", "reason"],
                name="message_report",
            ),
            models.Index(fields=["campaign_id", "-id"], name="message_campaign"),
            # For segments that look ahead at who crosses an edge within the hour: the
            # messages of a time are near each other, so a mark on each few pages will
            # do. It is next to nothing beside the rows, and to keep.
            BrinIndex(
                fields=["sent_at", "delivered_at", "opened_at", "clicked_at"],
                name="message_stages",
                pages_per_range=32,
                autosummarize=True,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_channel_display()} {self.pk}"


class Delivery(CustomerOwned):
    """One attempt to hand a message to a provider."""

    class Outcome(models.TextChoices):
        STARTED = "started", "Started"
        ACCEPTED = "accepted", "Accepted"
        RETRY = "retry", "Failed, will be tried again"
        FAILED = "failed", "Failed"
        UNKNOWN = "unknown", "Unknown"

    customer = models.ForeignKey(
        Customer,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    message = models.ForeignKey(
        Message, models.DO_NOTHING, db_constraint=False, related_name="deliveries"
    )
    attempt = models.PositiveSmallIntegerField()
    provider = models.CharField(max_length=64)
    outcome = models.CharField(max_length=8, choices=Outcome, default=Outcome.STARTED)
    provider_id = models.CharField(max_length=255, blank=True)
    error = models.TextField(blank=True)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return f"attempt {self.attempt}"


class Suppression(models.Model):
    """An address that must not be written to again."""

    channel = models.CharField(max_length=8, choices=Channel)
    address = models.CharField(max_length=4096)
    reason = models.CharField(max_length=255)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint("channel", MD5("address"), name="suppression_once")
        ]

    def __str__(self) -> str:
        return f"{self.get_channel_display()} {self.address}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.address = suppressions.key(self.channel, self.address)
        super().save(*args, **kwargs)


class ChannelSettings(models.Model):
    """What the installation decided for one channel. No row: the defaults below."""

    channel = models.CharField(max_length=8, choices=Channel, primary_key=True)
    default_consent = models.BooleanField(
        "write to customers who never answered",
        default=False,
        help_text="Off: no answer about consent counts as no.",
    )
    ttl_hours = models.PositiveIntegerField(
        "time to live, in hours",
        default=72,
        help_text="A message that could not be sent within this time is suppressed.",
    )

    class Meta:
        verbose_name_plural = "channel settings"

    def __str__(self) -> str:
        return str(self.get_channel_display())


class Hold(models.Model):
    """The messages of this campaign wait, until the row is gone."""

    campaign_id = models.BigIntegerField(unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"campaign {self.campaign_id}"
