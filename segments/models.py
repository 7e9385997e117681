"""Saved rules, who is in them, and what it takes to keep that true."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models

from customers.models import Customer
from smartcomm.core.db import CustomerOwned


class Segment(models.Model):
    """A saved rule or a list of customers, and how well its members are known.

    The members are rows of Membership. segments/upkeep/ keeps them true: after a change
    of a customer, as time passes, and by counting all anew each night.
    """

    class Kind(models.TextChoices):
        DYNAMIC = "dynamic", "By a rule"
        STATIC = "static", "A list of customers"

    class Status(models.TextChoices):
        NEW = "new", "Not counted yet"
        COMPUTING = "computing", "Counting"
        FRESH = "fresh", "Fresh"
        STALE = "stale", "Stale"
        FAILED = "failed", "Failed"

    name = models.CharField(max_length=150, unique=True)
    description = models.TextField(blank=True)
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.DYNAMIC)
    rule = models.JSONField(null=True, help_text="None for a list.")
    is_watched = models.BooleanField(
        "record events",
        default=False,
        help_text="Record “segment.entered” and “segment.left” for customers who come "
        "and go, so that campaigns can answer.",
    )
    archived_at = models.DateTimeField(null=True, editable=False)

    status = models.CharField(
        max_length=9, choices=Status, default=Status.NEW, editable=False
    )
    #: How many members there are; None until they were counted once.
    count = models.PositiveBigIntegerField(null=True, editable=False)
    counted_at = models.DateTimeField(
        null=True, editable=False, help_text="When all were last counted."
    )
    tried_at = models.DateTimeField(
        null=True, editable=False, help_text="When counting was last begun."
    )
    took_ms = models.PositiveIntegerField("took (ms)", null=True, editable=False)
    error = models.TextField(blank=True, editable=False)
    failed_at = models.DateTimeField(null=True, editable=False)

    #: Goes up with every change of what the rule means: its own words, those of
    #: segments it speaks of, the types of attributes and fields. What was computed for
    #: an older one is not kept.
    edition = models.PositiveIntegerField(default=1, editable=False)
    #: A hash of all that; empty where it is not known, or the rule is broken.
    fingerprint = models.CharField(max_length=32, blank=True, editable=False)
    #: The edition whose members stand in Membership; 0 for none.
    members_of = models.PositiveIntegerField(default=0, editable=False)

    # A count of all goes over ranges of customers' ids; None: none is under way.
    recount_wanted_at = models.DateTimeField(null=True, editable=False)
    check_wanted = models.BooleanField(default=False, editable=False)
    #: Nothing is known to be wrong: whoever is found otherwise is counted as a repair.
    recount_is_check = models.BooleanField(default=False, editable=False)
    recount_edition = models.PositiveIntegerField(null=True, editable=False)
    recount_began_at = models.DateTimeField(null=True, editable=False)
    recount_after = models.BigIntegerField(null=True, editable=False)
    recounted_upto = models.BigIntegerField(null=True, editable=False)
    recount_end = models.BigIntegerField(null=True, editable=False)
    #: Transactions that may not know yet what the segment looks at; it waits for them.
    recount_waits_for = ArrayField(models.TextField(), default=list, editable=False)
    #: What a check must have been told of before it calls anything a repair.
    recount_events = models.BigIntegerField(null=True, editable=False)
    recount_changes = models.BigIntegerField(null=True, editable=False)
    recount_ms = models.PositiveIntegerField(default=0, editable=False)
    #: How many the last check put right; None before the first one.
    repaired = models.PositiveBigIntegerField(null=True, editable=False)

    #: Failures in a row, and when to try again.
    failures = models.PositiveSmallIntegerField(default=0, editable=False)
    retry_at = models.DateTimeField(null=True, editable=False)

    #: Up to here it is known which customers change by the clock alone: rows of Due.
    #: None: not looked, so that only a count of all helps.
    looked_until = models.DateTimeField(null=True, editable=False)
    #: When everybody may change at once, as when a month begins.
    turns_at = models.DateTimeField(null=True, editable=False)

    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        db_constraint=False,
        related_name="+",
    )

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_static(self) -> bool:
        return self.kind == self.Kind.STATIC

    @property
    def is_archived(self) -> bool:
        return self.archived_at is not None

    @property
    def is_counting(self) -> bool:
        """Whether a count of all is under way, or is awaited since members may be
        wrong; a check that only waits its turn is none."""
        if self.is_static or self.is_archived:
            return False
        return self.recount_edition is not None or (
            self.recount_wanted_at is not None and not self.check_wanted
        )

    @property
    def percent(self) -> int:
        """How much of a count under way is done, from 0 to 100."""
        if self.recount_edition is None:
            return 0
        first, last = self.recount_after or 0, self.recount_end or 0
        if last <= first:
            return 100
        done = (self.recounted_upto or 0) - first
        return max(0, min(100, 100 * done // (last - first)))


class SegmentVersion(models.Model):
    """A segment as it was saved: what it said, who saved it, and when."""

    segment = models.ForeignKey(Segment, models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    name = models.CharField(max_length=150)
    description = models.TextField(blank=True)
    rule = models.JSONField(null=True)
    author = models.CharField(
        max_length=150, blank=True, help_text="A person, or the source of a key."
    )
    created_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-number"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["segment", "number"], name="segment_version_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name}, version {self.number}"

    @property
    def label(self) -> str:
        return f"Version {self.number}"


class Membership(CustomerOwned):
    """A customer is in a segment, since then."""

    pk = models.CompositePrimaryKey("customer", "segment")
    # Not checked by the database, which would look twice for each of a million rows: a
    # customer or a segment that is deleted takes them along, and who was put in at that
    # very moment is taken out by the keeper.
    customer = models.ForeignKey(
        Customer,
        models.CASCADE,
        db_constraint=False,
        db_index=False,
        related_name="memberships",
    )
    segment = models.ForeignKey(
        Segment,
        models.CASCADE,
        db_constraint=False,
        db_index=False,
        related_name="memberships",
    )
    since = models.DateTimeField()

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["segment", "customer"], name="membership_members"),
            # For the page of members, who came last first.
            models.Index(
                fields=["segment", "-since", "-customer"], name="membership_newest"
            ),
        ]

    def __str__(self) -> str:
        return f"customer {self.customer_id} in segment {self.segment_id}"


class ListChange(models.Model):
    """How a list of customers was changed: by whom, and how many were put in or out.

    The newest of each list are kept.
    """

    class How(models.TextChoices):
        REPLACE = "replace", "Replaced"
        ADD = "add", "Added to"
        REMOVE = "remove", "Removed from"
        BOTH = "both", "Added to and removed from"
        FREEZE = "freeze", "Frozen"

    class By(models.TextChoices):
        ID = "id", "ID"
        EMAIL = "email", "E-mail"
        PHONE = "phone", "Phone"

    segment = models.ForeignKey(Segment, models.CASCADE, related_name="list_changes")
    how = models.CharField(max_length=7, choices=How)
    by = models.CharField(max_length=5, choices=By, default=By.ID)
    #: The name of the file, or words for where the customers came from.
    origin = models.CharField(max_length=255, blank=True)
    author = models.CharField(
        max_length=150, blank=True, help_text="A person, or the source of a key."
    )
    at = models.DateTimeField()
    #: Lines with something in them, and what became of them.
    lines = models.PositiveIntegerField(default=0)
    found = models.PositiveIntegerField(default=0)
    unknown = models.PositiveIntegerField(default=0)
    ambiguous = models.PositiveIntegerField(default=0)
    #: Customers, each once.
    added = models.PositiveIntegerField(default=0)
    removed = models.PositiveIntegerField(default=0)

    class Meta:
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"{self.get_how_display()} {self.segment_id}: {self.found} found"


class ListMiss(models.Model):
    """A line of what was sent for a list that stands for no customer, or for several.

    Kept for some weeks, so that it can be looked at and mended.
    """

    class Reason(models.TextChoices):
        UNKNOWN = "unknown", "Nobody has it"
        AMBIGUOUS = "ambiguous", "Several customers have it"

    change = models.ForeignKey(
        ListChange, models.CASCADE, db_index=False, related_name="misses"
    )
    line = models.PositiveIntegerField()
    value = models.CharField(max_length=255)
    reason = models.CharField(max_length=9, choices=Reason)

    class Meta:
        verbose_name_plural = "list misses"
        indexes: ClassVar = [
            models.Index(fields=["change", "line"], name="list_miss_lines")
        ]

    def __str__(self) -> str:
        return f"line {self.line}: {self.value}"


class ExportChoice(models.Model):
    """The columns that somebody chose for a file of members, for the next time."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="+"
    )
    columns = ArrayField(models.CharField(max_length=128))

    def __str__(self) -> str:
        return ", ".join(self.columns)


class Dependency(models.Model):
    """What a segment looks at: the index from a change to the segments it may touch."""

    class Kind(models.TextChoices):
        EVENT = "event", "Events of a type"
        CUSTOMER = "customer", "Something of the customer"

    segment = models.ForeignKey(Segment, models.CASCADE, related_name="dependencies")
    kind = models.CharField(max_length=8, choices=Kind)
    #: An event type's id, or what `Change.what` names: "city", "attributes.tier",
    #: "consent", "device", "message", "segment.12", ...
    name = models.CharField(max_length=128)

    class Meta:
        verbose_name_plural = "dependencies"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["kind", "name", "segment"], name="dependency_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Change(CustomerOwned):
    """Something of a customer changed that rules may look at. The row is the queue.

    Written by the database itself, however the change was made: see the triggers in
    0002. Events need none, since they are never changed: `Upkeep.events_upto`.
    """

    customer = models.ForeignKey(
        Customer,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    #: What changed, as in `Dependency.name`; "*" for anything, as after a merge.
    what = ArrayField(models.CharField(max_length=128))

    def __str__(self) -> str:
        return f"customer {self.customer_id}: {', '.join(self.what)}"


class Reminder(models.Model):
    """Something for the keeper to look at that is not a customer's own. The row is the
    queue. Written by the database, as changes are.

    `what` is "meaning" where something was declared otherwise that rules are made of,
    "members.12" where members of a segment were written by others than the keeper,
    "customer.34" where a customer is gone.
    """

    what = models.CharField(max_length=64)

    def __str__(self) -> str:
        return self.what


class Due(CustomerOwned):
    """A customer may enter or leave a segment at this time by the clock alone.

    Or was touched while all were being counted, and is asked when that is done.
    """

    segment = models.ForeignKey(
        Segment,
        models.CASCADE,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    customer = models.ForeignKey(
        Customer,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    due_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "dues"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["segment", "customer", "due_at"], name="due_once"
            )
        ]
        indexes: ClassVar = [models.Index(fields=["due_at"], name="due_next")]

    def __str__(self) -> str:
        return f"customer {self.customer_id} in segment {self.segment_id}"


class Counted(models.Model):
    """The members found so far in a count of all: one row for a range of customers."""

    segment = models.ForeignKey(
        Segment, models.CASCADE, db_index=False, related_name="+"
    )
    upto = models.BigIntegerField()
    customer_ids = ArrayField(models.BigIntegerField())

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["segment", "upto"], name="counted_once")
        ]

    def __str__(self) -> str:
        return f"segment {self.segment_id} up to {self.upto}"


class DailyCount(models.Model):
    """How many members a segment had when a day (of the project's zone) ended, or has
    by now."""

    segment = models.ForeignKey(
        Segment, models.CASCADE, db_index=False, related_name="daily_counts"
    )
    day = models.DateField()
    count = models.PositiveBigIntegerField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["segment", "day"], name="daily_count_once")
        ]

    def __str__(self) -> str:
        return f"{self.day}: {self.count}"


class Upkeep(models.Model):
    """How far the upkeep of members has come. One row; its lock makes one keeper."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    #: Events and new customers up to these ids have been looked at.
    events_upto = models.BigIntegerField(default=0)
    customers_upto = models.BigIntegerField(default=0)
    #: Up to these ids all were committed, or never will be, at `settled_at`.
    events_settled = models.BigIntegerField(default=0)
    customers_settled = models.BigIntegerField(default=0)
    settled_at = models.DateTimeField(null=True)
    #: The highest ids that were given out at `seen_at`. They are settled when those
    #: who were writing then have ended: one with a lower id may commit later.
    events_seen = models.BigIntegerField(default=0)
    customers_seen = models.BigIntegerField(default=0)
    seen_at = models.DateTimeField(null=True)
    writers = ArrayField(models.TextField(), default=list)
    #: Goes up when something that rules are made of was declared otherwise.
    meanings = models.PositiveBigIntegerField(default=0)
    #: Members are known to be right as of this time.
    kept_at = models.DateTimeField(null=True)
    #: The last day for which every segment has a row of DailyCount.
    counted_on = models.DateField(null=True)

    class Meta:
        verbose_name_plural = "upkeep"

    def __str__(self) -> str:
        return f"up to event {self.events_upto}"


class Count(models.Model):
    """A rule being counted exactly in the background, for somebody who waits."""

    class Status(models.TextChoices):
        WAITING = "waiting", "Waiting"
        RUNNING = "running", "Counting"
        DONE = "done", "Counted"
        CANCELLED = "cancelled", "Cancelled"
        FAILED = "failed", "Failed"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    rule = models.JSONField()
    #: The values of `$field_code`; None where the rule asks for none.
    context = models.JSONField(null=True)
    status = models.CharField(max_length=9, choices=Status, default=Status.WAITING)
    #: Pages and requests that wait for it. When the last of them goes, it is cancelled.
    askers = ArrayField(models.CharField(max_length=64), default=list)
    asked_at = models.DateTimeField()
    #: Moved on by whoever waits: old, and nobody does any more.
    wanted_at = models.DateTimeField()
    began_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    #: Moved on by whoever counts: old, and nobody does any more.
    alive_at = models.DateTimeField(null=True)
    #: Part of the customers asked so far, from 0 to 1.
    progress = models.FloatField(default=0)
    found = models.PositiveBigIntegerField(default=0)
    base = models.PositiveBigIntegerField(default=0)
    #: Channel → how many of those found may be written to.
    reach = models.JSONField(default=dict)
    sample = ArrayField(models.CharField(max_length=128), default=list)
    took_ms = models.PositiveIntegerField(null=True)
    error = models.TextField(blank=True)
    code = models.CharField(max_length=32, blank=True, help_text="Of the error.")
    #: Of a rule that is too dear to be counted: `found` is right within ± this.
    margin = models.PositiveBigIntegerField(null=True)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["asked_at"], name="count_asked")]

    def __str__(self) -> str:
        return f"{self.status}: {self.found}"

    @property
    def is_open(self) -> bool:
        return self.status in (self.Status.WAITING, self.Status.RUNNING)
