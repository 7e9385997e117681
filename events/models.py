"""What customers did, what happened for everyone, and who may tell us."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.core.exceptions import ValidationError
from django.db import models

from customers.models import Customer
from smartcomm.core.addresses import read_networks
from smartcomm.core.db import CustomerOwned
from smartcomm.core.errors import Invalid


class Source(models.Model):
    """A system allowed to send us data; owns API keys."""

    class UnknownCustomers(models.TextChoices):
        CREATE = "create", "Create a customer with nothing but an ID"
        REJECT = "reject", "Reject the event and keep it"

    name = models.CharField(max_length=128, unique=True)
    is_active = models.BooleanField(
        default=True, help_text="The keys of an inactive source are refused."
    )
    unknown_customers = models.CharField(
        max_length=8,
        choices=UnknownCustomers,
        default=UnknownCustomers.CREATE,
        help_text="What to do with an event of a customer we do not know.",
    )
    requests_per_second = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="How many requests it may make. Empty: as the installation sets it. "
        "0: no limit.",
    )
    allowed_networks = ArrayField(
        models.CharField(max_length=49),
        default=list,
        blank=True,
        help_text="Where its requests may come from: addresses or networks, such as "
        "203.0.113.7 or 203.0.113.0/24. Empty: from anywhere.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        # However it is saved: a network that nobody can read lets nobody in.
        self.allowed_networks = read_networks(self.allowed_networks)
        super().save(*args, **kwargs)

    def clean(self) -> None:
        try:
            self.allowed_networks = read_networks(self.allowed_networks)
        except Invalid as error:
            raise ValidationError({"allowed_networks": error.message}) from error


class Scope(models.TextChoices):
    EVENTS = "events:write", "Send events"
    CUSTOMERS = "customers:write", "Create and change customers"
    READ = "read", "Read everything"
    MANAGE = "manage", "Manage segments and campaigns"


class ApiKey(models.Model):
    """A secret that a source shows; only its hash is kept."""

    source = models.ForeignKey(Source, models.CASCADE, related_name="keys")
    name = models.CharField(max_length=128, blank=True, help_text="What uses it.")
    prefix = models.CharField("begins with", max_length=12, editable=False)
    hash = models.CharField(max_length=64, unique=True, editable=False)
    scopes = ArrayField(models.CharField(max_length=32, choices=Scope))
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    replaces = models.OneToOneField(
        "self",
        models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="replaced_by",
        help_text="The key that this one was made to replace.",
    )

    class Meta:
        verbose_name = "API key"
        ordering: ClassVar = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.prefix}…"

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    @property
    def successor(self) -> ApiKey | None:
        """The key that replaces this one. A query unless it was selected."""
        try:
            return self.replaced_by
        except ApiKey.DoesNotExist:
            return None


class Kind(models.TextChoices):
    CUSTOMER = "customer", "Customer event"
    SYSTEM = "system", "System event"


class EventType(models.Model):
    """What can happen. A name is of one kind only, and case-sensitive."""

    class Mode(models.TextChoices):
        OPEN = "open", "Open: everything is stored, and new fields are learnt"
        WARN = (
            "warn",
            "Warn: everything is stored, and the sender is warned of what is not as "
            "declared",
        )
        ENFORCED = (
            "enforced",
            "Enforced: what is not as declared is rejected and kept, to be replayed",
        )

    name = models.CharField(max_length=128, unique=True)
    kind = models.CharField(max_length=8, choices=Kind)
    description = models.TextField(blank=True)
    mode = models.CharField(max_length=8, choices=Mode, default=Mode.OPEN)
    is_reviewed = models.BooleanField(
        "reviewed", default=False, help_text="Off for a type that registered itself."
    )
    is_awaited = models.BooleanField(
        default=False,
        editable=False,
        help_text="A published campaign waits for it: kept true by campaigns.",
    )
    created_at = models.DateTimeField("first seen", auto_now_add=True)
    last_seen_on = models.DateField(
        "last seen",
        null=True,
        blank=True,
        editable=False,
        help_text="The day, in UTC, on which the last such event arrived.",
    )

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name


class EventField(models.Model):
    """A variable in the context of a type's events, learnt or declared.

    `code` is a field code, or a path of them for what is nested: address.city.
    """

    class Type(models.TextChoices):
        STRING = "string", "Text"
        NUMBER = "number", "Number"
        BOOLEAN = "boolean", "Yes or no"
        DATE = "date", "Date"
        OBJECT = "object", "Object"
        LIST = "list", "List"

    type = models.ForeignKey(EventType, models.CASCADE, related_name="fields")
    code = models.CharField("field code", max_length=255)
    label = models.CharField(max_length=150, blank=True)
    value_type = models.CharField("type of value", max_length=8, choices=Type)
    is_required = models.BooleanField("required", default=False)
    created_at = models.DateTimeField("first seen", auto_now_add=True)
    last_seen_on = models.DateField(
        "last seen",
        null=True,
        blank=True,
        editable=False,
        help_text="The day, in UTC, of the last event that carried it.",
    )
    gone_reviewed_on = models.DateField(
        null=True,
        blank=True,
        editable=False,
        help_text="The day on which staff said that it is fine not to see it.",
    )

    class Meta:
        ordering: ClassVar = ["code"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["type", "code"], name="event_field_once")
        ]

    def __str__(self) -> str:
        return self.label or self.code


class Event(CustomerOwned):
    """It happened to one customer. Never changed afterwards: the database refuses.

    No foreign key is checked by the database: ingestion resolves customers under
    a row lock, which gives the same guarantee for one statement instead of three
    triggers a row.
    """

    customer = models.ForeignKey(
        Customer,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="events",
    )
    type = models.ForeignKey(
        EventType, models.DO_NOTHING, db_constraint=False, db_index=False
    )
    source = models.ForeignKey(
        Source, models.DO_NOTHING, db_constraint=False, db_index=False
    )
    external_id = models.CharField("ID", max_length=200)
    occurred_at = models.DateTimeField()
    received_at = models.DateTimeField()
    context = models.JSONField(default=dict)
    is_backfill = models.BooleanField("backfill", default=False)

    class Meta:
        constraints: ClassVar = [
            # The id a sender chose counts once, for ever.
            models.UniqueConstraint(
                fields=["customer", "source", "external_id"], name="event_once"
            )
        ]
        indexes: ClassVar = [
            # For event conditions of rules: read in the order of the grouping.
            models.Index(fields=["type", "customer", "occurred_at"], name="event_rule"),
            # For rare values in conditions on the context.
            GinIndex(
                fields=["context"], name="event_context", opclasses=["jsonb_path_ops"]
            ),
            # For the history of a customer.
            models.Index(
                fields=["customer", "-occurred_at", "-id"], name="event_history"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} ({self.external_id})"


class SystemEvent(models.Model):
    """It happened for everyone. Never changed afterwards: the database refuses."""

    type = models.ForeignKey(EventType, models.PROTECT)
    source = models.ForeignKey(Source, models.PROTECT)
    external_id = models.CharField("ID", max_length=200)
    occurred_at = models.DateTimeField()
    received_at = models.DateTimeField()
    context = models.JSONField(default=dict)
    is_backfill = models.BooleanField("backfill", default=False)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["source", "external_id"], name="system_event_once"
            )
        ]
        indexes: ClassVar = [
            # For the history of every customer.
            models.Index(fields=["-occurred_at", "-id"], name="system_event_history"),
        ]

    def __str__(self) -> str:
        return f"{self.type} ({self.external_id})"


class PendingEvent(CustomerOwned):
    """An event that campaigns have not looked at yet. The row is the queue."""

    customer = models.ForeignKey(
        Customer,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    event = models.ForeignKey(
        Event, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    # Repeated here, so that a backlog of one type can be passed over.
    type = models.ForeignKey(
        EventType,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )

    #: Empty: at once. Set where a campaign could not be asked.
    due_at = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(db_default=0)

    class Meta:
        indexes: ClassVar = [
            # Claimed type by type, so that a backlog of one keeps no other waiting.
            models.Index(fields=["type", "id"], name="pending_queue"),
        ]

    def __str__(self) -> str:
        return f"event {self.event_id}"


class PendingSystemEvent(models.Model):
    """A system event that campaigns have not looked at yet. The row is the queue."""

    system_event = models.OneToOneField(SystemEvent, models.CASCADE, related_name="+")
    due_at = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(db_default=0)

    def __str__(self) -> str:
        return f"system event {self.system_event_id}"


class Drift(models.Model):
    """How events differ from what is known of their type: one row for each way.

    A field that is no longer seen is not here: `EventField.last_seen_on` tells.
    """

    class What(models.TextChoices):
        NEW_FIELD = "new_field", "New field"
        TYPE_CHANGED = "type_changed", "Another type of value"
        FIELD_MISSING = "field_missing", "A required field is missing"

    type = models.ForeignKey(EventType, models.CASCADE, related_name="drifts")
    code = models.CharField("field code", max_length=255)
    what = models.CharField(max_length=16, choices=What)
    found_type = models.CharField(
        "came as", max_length=8, choices=EventField.Type, blank=True
    )
    source = models.ForeignKey(Source, models.SET_NULL, null=True, related_name="+")
    event_id = models.CharField("ID of such an event", max_length=200)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField(help_text="To the hour.")
    reviewed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["type", "code", "what", "found_type"], name="drift_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.type}: {self.code}"


class FieldMapping(models.Model):
    """A field that a source names otherwise than we do: renamed as events arrive."""

    source = models.ForeignKey(
        Source,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="mappings",
        help_text="Empty: of any source.",
    )
    event_name = models.CharField(
        "event", max_length=128, blank=True, help_text="Empty: of any event."
    )
    sent = models.CharField(
        "field as sent", max_length=255, help_text="Such as price-eur."
    )
    code = models.CharField("field code", max_length=64, help_text="Such as price_eur.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["event_name", "sent"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["source", "event_name", "sent"],
                name="field_mapping_once",
                nulls_distinct=False,
                violation_error_message="This field is renamed already.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.sent} → {self.code}"


class Format(models.TextChoices):
    """What an event was written in when it came."""

    NATIVE = "native", "Our own"
    SEGMENT = "segment", "Segment"
    CLOUDEVENTS = "cloudevents", "CloudEvents"
    UNREADABLE = "unreadable", "Not JSON"


class RejectedEvent(models.Model):
    """What a source sent and we refused, kept whole with the reason.

    `payload` is the item as JSON text, not jsonb: jsonb refuses some of what
    makes an event worth rejecting, such as NUL characters.
    """

    class Status(models.TextChoices):
        OPEN = "open", "Open"
        REPLAYED = "replayed", "Replayed"
        SET_ASIDE = "set_aside", "Set aside"

    source = models.ForeignKey(Source, models.PROTECT)
    kind = models.CharField(max_length=8, choices=Kind)
    format = models.CharField(max_length=16, choices=Format, default=Format.NATIVE)
    payload = models.TextField()
    #: As far as they can be told from the payload.
    name = models.CharField("event", max_length=128, blank=True)
    external_id = models.CharField("ID", max_length=200, blank=True)
    code = models.CharField(max_length=64)
    field = models.CharField(max_length=255, blank=True)
    message = models.TextField()
    received_at = models.DateTimeField(auto_now_add=True)
    status = models.CharField(max_length=16, choices=Status, default=Status.OPEN)
    replayed_at = models.DateTimeField(null=True, blank=True)
    #: Once replayed: the Event or SystemEvent, by kind, that it is now.
    stored_id = models.BigIntegerField(null=True, editable=False)
    note = models.CharField(max_length=500, blank=True)
    set_aside_at = models.DateTimeField(null=True, blank=True)
    set_aside_by = models.CharField(max_length=150, blank=True)

    class Meta:
        indexes: ClassVar = [
            # For the journal, newest first, and for what is left to be fixed.
            models.Index(
                fields=["status", "code", "-id"], name="rejected_event_journal"
            ),
            # For whether what came again is kept already.
            models.Index(fields=["source", "external_id"], name="rejected_event_again"),
            # For counting them by reason, and for walking through one reason.
            models.Index(
                fields=["status", "source", "kind", "code", "field", "name", "id"],
                include=["received_at"],
                name="rejected_event_reason",
                condition=~models.Q(status="replayed"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.pk}"


class Replay(models.Model):
    """Rejected events on their way through the door again. The row is the queue.

    How far it got is committed with what it did, batch by batch.
    """

    class Status(models.TextChoices):
        WAITING = "waiting", "Under way"
        DONE = "done", "Done"
        STOPPED = "stopped", "Stopped"
        FAILED = "failed", "Failed"

    #: As `rejects.Which.to_json` writes it.
    which = models.JSONField(default=dict)
    as_backfill = models.BooleanField(default=False)
    create_customers = models.BooleanField(default=False)
    status = models.CharField(max_length=8, choices=Status, default=Status.WAITING)
    total = models.PositiveBigIntegerField(help_text="Open when it was asked for.")
    last_id = models.BigIntegerField(default=0)
    up_to_id = models.BigIntegerField()
    accepted = models.PositiveBigIntegerField(default=0)
    duplicates = models.PositiveBigIntegerField(default=0)
    rejected = models.PositiveBigIntegerField(default=0)
    requested_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    #: Empty: at once. Set where a batch failed.
    due_at = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)

    class Meta:
        indexes: ClassVar = [
            # For whoever looks for work.
            models.Index(
                fields=["id"],
                name="replay_waiting",
                condition=models.Q(status="waiting"),
            ),
        ]

    def __str__(self) -> str:
        return f"Replay {self.pk}"

    @property
    def handled(self) -> int:
        return self.accepted + self.duplicates + self.rejected

    @property
    def percent(self) -> int:
        return min(100, self.handled * 100 // self.total) if self.total else 100


class IdempotentRequest(models.Model):
    """A request that carried an Idempotency-Key, and the answer it got.

    Written in the transaction of what the request did: there is no such row for a
    request that is still at work, or that failed.
    """

    source = models.ForeignKey(Source, models.CASCADE, related_name="+")
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(
        max_length=64, help_text="SHA-256 of method, address and body."
    )
    status = models.PositiveSmallIntegerField()
    answer = models.BinaryField()
    created_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["source", "key"], name="idempotent_request_once"
            )
        ]
        indexes: ClassVar = [
            # For forgetting the old ones.
            models.Index(fields=["created_at"], name="idempotent_request_age"),
        ]

    def __str__(self) -> str:
        return self.key


class Import(models.Model):
    """A file of customers or events on its way in. The row is the queue.

    Place and numbers are written in the transaction of each batch, with what the
    batch brought: whatever is killed, they tell exactly what is in the database.
    """

    class Kind(models.TextChoices):
        EVENTS = "events", "Events of customers"
        SYSTEM_EVENTS = "system_events", "System events"
        CUSTOMERS = "customers", "Customers"

    class Status(models.TextChoices):
        UPLOADED = "uploaded", "Uploaded"
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        FINISHED = "finished", "Finished"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"

    kind = models.CharField("what is in it", max_length=16, choices=Kind)
    source = models.ForeignKey(Source, models.PROTECT, related_name="+")
    name = models.CharField("file", max_length=255)
    path = models.CharField(max_length=1024, editable=False)
    #: Kept by us, and worked on by workers. Otherwise it is where a command found it.
    is_upload = models.BooleanField(default=False, editable=False)
    size = models.BigIntegerField(editable=False)
    #: SHA-256 of the content, unpacked: the same file is known again, zipped or not.
    digest = models.CharField(max_length=64, blank=True, editable=False)
    plan = models.JSONField(
        default=dict,
        editable=False,
        help_text="How it is read: see events.importing.plan.",
    )
    corrects = models.ForeignKey(
        "self",
        models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="corrections",
        help_text="The import whose refused rows this one brings again.",
    )
    status = models.CharField(max_length=16, choices=Status, default=Status.UPLOADED)
    error = models.TextField(blank=True, editable=False)

    # How far it got: where the next row begins, in the unpacked file.
    offset = models.BigIntegerField(default=0, editable=False)
    line = models.BigIntegerField(default=0, editable=False)
    #: How much of the file as it lies on the disk has been read, for a bar.
    read_bytes = models.BigIntegerField(default=0, editable=False)
    #: How much of the file of refused rows counts; what is behind was never committed.
    errors_bytes = models.BigIntegerField(default=0, editable=False)
    rows = models.BigIntegerField(default=0, editable=False)
    imported = models.BigIntegerField(default=0, editable=False)
    duplicates = models.BigIntegerField(default=0, editable=False)
    rejected = models.BigIntegerField(default=0, editable=False)
    blank = models.BigIntegerField("blank lines", default=0, editable=False)

    claim = models.UUIDField(null=True, editable=False)
    claimed_by = models.CharField(max_length=255, blank=True, editable=False)
    claimed_until = models.DateTimeField(null=True, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        editable=False,
        related_name="+",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, editable=False)
    ended_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        constraints: ClassVar = [
            # The three numbers always tell of every row that was read.
            models.CheckConstraint(
                condition=models.Q(
                    rows=models.F("imported")
                    + models.F("duplicates")
                    + models.F("rejected")
                ),
                name="import_adds_up",
            )
        ]
        indexes: ClassVar = [
            # For workers that look for the next one.
            models.Index(
                fields=["id"],
                name="import_queue",
                condition=models.Q(status__in=["queued", "running"]),
            ),
            # For a command that finds its file again.
            models.Index(fields=["digest"], name="import_file"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_going(self) -> bool:
        return self.status in (self.Status.QUEUED, self.Status.RUNNING)

    @property
    def percent(self) -> int:
        """How much of the file has been read; 100 only when all of it has."""
        if self.status == self.Status.FINISHED:
            return 100
        return min(99, self.read_bytes * 100 // self.size) if self.size else 0
