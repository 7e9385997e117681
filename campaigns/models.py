"""What happens to whom, and when.

Definition and progress are different tables: a Campaign has Versions, a Version
has Steps; a Run is one customer's way through one version, a Passage one step
that a run has left, a Broadcast one system event's way through the base.
"""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models

from customers.models import Customer
from events.models import Event, EventType, SystemEvent
from messaging.models import Content
from smartcomm.core.db import CustomerOwned


class Campaign(models.Model):
    """What a marketer draws: one trigger and steps that may branch."""

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        PUBLISHED = "published", "Published"
        PAUSED = "paused", "Paused"
        ARCHIVED = "archived", "Archived"

    name = models.CharField(max_length=150, unique=True)
    description = models.TextField(blank=True)
    status = models.CharField(
        max_length=10, choices=Status, default=Status.DRAFT, editable=False
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    #: When it was last asked whether its numbers add up.
    checked_at = models.DateTimeField(null=True, editable=False)
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
        ordering: ClassVar = ["-updated_at"]
        permissions: ClassVar = [("publish_campaign", "Can publish campaigns")]

    def __str__(self) -> str:
        return self.name


class StateChange(models.Model):
    """A state that a campaign came into, and when; only ever added to.

    The campaign knows how it is; this is how it was when an event came.
    """

    campaign = models.ForeignKey(
        Campaign, models.CASCADE, db_index=False, related_name="state_changes"
    )
    status = models.CharField(max_length=10, choices=Campaign.Status)
    at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["at", "id"]
        indexes: ClassVar = [models.Index(fields=["campaign", "at"], name="state_was")]

    def __str__(self) -> str:
        return f"{self.campaign_id} {self.status} since {self.at}"


class Version(models.Model):
    """A drawing. A draft may change; what was published never does."""

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        PUBLISHED = "published", "Published"
        SUPERSEDED = "superseded", "Superseded"

    class Trigger(models.TextChoices):
        EVENT = "event", "Event X occurred"
        SYSTEM_EVENT = "system_event", "System event X occurred"
        SEGMENT_ENTERED = "segment_entered", "Segment X was entered"
        SEGMENT_LEFT = "segment_left", "Segment X was left"
        DATE = "date", "Date X is reached"
        SCHEDULE = "schedule", "Planned time"

    class Entry(models.TextChoices):
        EVERY_EVENT = "every_event", "At every event"
        ONCE = "once", "Once"
        INTERVAL = "interval", "Not again within some days"

    campaign = models.ForeignKey(Campaign, models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    status = models.CharField(max_length=10, choices=Status, default=Status.DRAFT)
    trigger_kind = models.CharField("trigger", max_length=16, choices=Trigger)
    #: A name, not a key: a draft may speak of an event that nobody has declared.
    event_name = models.CharField("event", max_length=128, blank=True)
    #: Set when published.
    event_type = models.ForeignKey(
        EventType, models.PROTECT, null=True, blank=True, related_name="+"
    )
    where = models.JSONField("and its context says", default=list, blank=True)
    max_age_hours = models.PositiveIntegerField(
        "ignore events older than (hours)", default=72
    )
    #: What only this kind of trigger has; see campaigns.triggers.
    trigger_config = models.JSONField(default=dict, blank=True)
    #: When it starts next by itself; empty: events start it, or it never will again.
    next_at = models.DateTimeField(null=True, blank=True, editable=False)
    entry_rule = models.CharField(
        "a customer may enter", max_length=16, choices=Entry, default=Entry.EVERY_EVENT
    )
    entry_days = models.PositiveIntegerField("days", null=True, blank=True)
    #: How quickly a broadcast goes, see campaigns.pace; null: as quickly as it can.
    pace = models.JSONField(null=True, blank=True)
    start = models.CharField("first step", max_length=64, blank=True)
    #: The names of all who have changed it while it was a draft.
    authors = models.JSONField(default=list, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    published_at = models.DateTimeField(null=True, blank=True)
    published_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        db_constraint=False,
        related_name="+",
    )

    class Meta:
        ordering: ClassVar = ["-number"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["campaign", "number"], name="version_number"
            ),
            models.UniqueConstraint(
                fields=["campaign"],
                condition=models.Q(status="published"),
                name="version_one_published",
            ),
            models.UniqueConstraint(
                fields=["campaign"],
                condition=models.Q(status="draft"),
                name="version_one_draft",
            ),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["next_at"],
                name="version_planned",
                condition=models.Q(status="published", next_at__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return f"{self.campaign} v{self.number}"


class PublishRequest(models.Model):
    """That a draft be published, and what a second person said to it."""

    class Status(models.TextChoices):
        OPEN = "open", "Waits for a second person"
        APPROVED = "approved", "Approved"
        DECLINED = "declined", "Declined"
        VOID = "void", "Void"

    campaign = models.ForeignKey(
        Campaign, models.CASCADE, related_name="publish_requests"
    )
    version = models.PositiveIntegerField()
    #: What was drawn when it was asked: see campaigns.editing.stamp.
    stamp = models.CharField(max_length=16)
    status = models.CharField(max_length=8, choices=Status, default=Status.OPEN)
    asked_by = models.CharField(max_length=200)
    asked_at = models.DateTimeField()
    decided_by = models.CharField(max_length=200, blank=True)
    decided_at = models.DateTimeField(null=True)
    #: What was said to it.
    word = models.TextField(blank=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["campaign"],
                condition=models.Q(status="open"),
                name="publish_request_one_open",
            )
        ]

    def __str__(self) -> str:
        return f"version {self.version} by {self.asked_by}: {self.status}"


class Step(models.Model):
    """A box of the drawing: an action, its configuration, and where each way leads."""

    version = models.ForeignKey(Version, models.CASCADE, related_name="steps")
    key = models.CharField(max_length=64)
    action = models.CharField(max_length=32)
    config = models.JSONField(default=dict, blank=True)
    #: Way out → key of the next step, or null: the run ends there.
    next = models.JSONField(default=dict, blank=True)
    position = models.PositiveIntegerField(default=0)
    #: The event that runs wait for at this step; set when published.
    event_type = models.ForeignKey(
        EventType,
        models.PROTECT,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
    )
    #: The frozen text of a sending step; set when published.
    content = models.ForeignKey(
        Content, models.PROTECT, null=True, blank=True, editable=False, related_name="+"
    )

    class Meta:
        ordering: ClassVar = ["position", "id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["version", "key"],
                name="step_key",
                violation_error_message="Two steps have the same key.",
            )
        ]

    def __str__(self) -> str:
        return self.key


class Entry(CustomerOwned):
    """When a customer last entered a campaign that limits it. See entry rules."""

    customer = models.ForeignKey(
        Customer,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    campaign = models.ForeignKey(
        Campaign, models.CASCADE, db_index=False, related_name="+"
    )
    entered_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["customer", "campaign"], name="entry_once")
        ]

    def __str__(self) -> str:
        return f"{self.customer_id} in {self.campaign_id}"


class TurnedAway(CustomerOwned):
    """A customer whom the entry rule did not let in, with the event that came."""

    customer = models.ForeignKey(
        Customer,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    campaign = models.ForeignKey(
        Campaign, models.CASCADE, db_index=False, related_name="+"
    )
    version = models.ForeignKey(
        Version, models.CASCADE, db_index=False, related_name="+"
    )
    event = models.ForeignKey(
        Event, models.DO_NOTHING, null=True, db_constraint=False, db_index=False
    )
    system_event = models.ForeignKey(
        SystemEvent, models.DO_NOTHING, null=True, db_constraint=False, db_index=False
    )
    #: When they had entered; empty where that was in the same moment.
    entered_at = models.DateTimeField(null=True)
    at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["customer", "campaign", "event"], name="turned_away_by_event"
            ),
            models.UniqueConstraint(
                fields=["customer", "campaign", "system_event"],
                name="turned_away_by_system_event",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["version"], name="turned_away_report")
        ]

    def __str__(self) -> str:
        return f"{self.customer_id} from {self.campaign_id}"


class Rehearsal(models.Model):
    """A dry run of a version over the last days: the order, and what came of it."""

    class Status(models.TextChoices):
        WAITING = "waiting", "Waiting"
        RUNNING = "running", "Running"
        DONE = "done", "Done"
        CANCELLED = "cancelled", "Stopped"
        FAILED = "failed", "Failed"

    #: Not over yet.
    OPEN = (Status.WAITING, Status.RUNNING)

    campaign = models.ForeignKey(Campaign, models.CASCADE, related_name="rehearsals")
    version = models.ForeignKey(Version, models.CASCADE, related_name="+")
    days = models.PositiveIntegerField()
    until = models.DateTimeField()
    status = models.CharField(max_length=9, choices=Status, default=Status.WAITING)
    #: From 0 to 1.
    progress = models.FloatField(default=0)
    #: See campaigns.rehearsal.outcome.
    result = models.JSONField(null=True)
    error = models.TextField(blank=True)
    asked_at = models.DateTimeField()
    asked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        db_constraint=False,
        related_name="+",
    )
    began_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    #: Moved on by whoever is at it: old, and nobody is any more.
    alive_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-asked_at", "-id"]
        indexes: ClassVar = [
            models.Index(
                fields=["asked_at"],
                name="rehearsal_open",
                condition=models.Q(status__in=["waiting", "running"]),
            )
        ]

    def __str__(self) -> str:
        return f"{self.version}, {self.days} days"

    @property
    def is_open(self) -> bool:
        return self.status in self.OPEN

    @property
    def percent(self) -> int:
        return int(self.progress * 100)


class Imbalance(models.Model):
    """Something at a step that does not add up: see campaigns.checker."""

    class What(models.TextChoices):
        STEP = "step", "Who came is not who left, waits, failed or ended"
        FORGOTTEN = "forgotten", "Waits for a message or an answer that is not coming"

    step = models.ForeignKey(Step, models.CASCADE, related_name="+")
    what = models.CharField(max_length=9, choices=What)
    found = models.BigIntegerField()
    wanted = models.BigIntegerField()
    since = models.DateTimeField()
    seen_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["step", "what"], name="imbalance_once")
        ]

    def __str__(self) -> str:
        return f"{self.step}: {self.get_what_display()}"


class Measurement(models.Model):
    """How many of each group reached the goal of a step: see campaigns.measuring.

    Kept with its time, since counting again for every look would be too dear.
    """

    step = models.OneToOneField(Step, models.CASCADE, related_name="measurement")
    #: For each way: [{"way": ..., "customers": ..., "decided": ..., ...}].
    groups = models.JSONField(default=list)
    measured_at = models.DateTimeField(null=True)
    took_ms = models.PositiveIntegerField(default=0)
    #: Why it could not be measured the last time.
    problem = models.TextField(blank=True)
    due_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.step}, measured {self.measured_at}"


class KeptReport(models.Model):
    """A report that is dear to count, with its time: see campaigns.kept."""

    campaign = models.ForeignKey(
        Campaign, models.CASCADE, db_index=False, related_name="+"
    )
    #: With so many days until today; 0: without.
    days = models.PositiveSmallIntegerField()
    #: JSON as text: jsonb would put steps and ways in an order of its own. Empty while
    #: it is counted for the first time.
    answer = models.TextField()
    counted_at = models.DateTimeField()
    took_ms = models.PositiveIntegerField()
    #: Somebody looked at it when it was old or not there; empty once it has been
    #: counted.
    wanted_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["campaign", "days"], name="kept_report_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.campaign}, {self.days} days, as of {self.counted_at}"


class StepCount(models.Model):
    """How many went on at a step with a limit, in all or in one period of it.

    By the step's key, so that a new version goes on counting where the last one was.
    """

    campaign = models.ForeignKey(
        Campaign, models.CASCADE, db_index=False, related_name="+"
    )
    step_key = models.CharField(max_length=64)
    since = models.DateTimeField()
    used = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["campaign", "step_key", "since"], name="step_count_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.step_key} since {self.since}: {self.used}"


class Broadcast(models.Model):
    """One system event's way through the customer base for one version.

    The base is walked in the order of `customer.id`, chunk by chunk, up to the
    last customer known when it began; `after_id` is how far it got. With a pace it is
    not walked, but asked for a portion of those who match: see campaigns.portions.
    """

    class Status(models.TextChoices):
        RUNNING = "running", "Running"
        FINISHED = "finished", "Finished"
        FAILED = "failed", "Failed"

    campaign = models.ForeignKey(Campaign, models.CASCADE, related_name="broadcasts")
    version = models.ForeignKey(Version, models.CASCADE, related_name="+")
    system_event = models.ForeignKey(SystemEvent, models.PROTECT, related_name="+")
    status = models.CharField(max_length=10, choices=Status, default=Status.RUNNING)
    reason = models.TextField(blank=True)
    after_id = models.BigIntegerField(default=0)
    last_id = models.BigIntegerField()
    examined = models.PositiveBigIntegerField(default=0)
    entered = models.PositiveBigIntegerField(default=0)
    #: Periods of the pace that have begun, when the last one took somebody last, and
    #: how many it has taken.
    portions = models.PositiveIntegerField(default=0)
    taken_at = models.DateTimeField(null=True, blank=True)
    period_taken = models.PositiveIntegerField(default=0)
    #: Who matched as well, and was not taken, at the last portion.
    still_match = models.PositiveBigIntegerField(null=True, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            # A system event goes through the base once for a campaign.
            models.UniqueConstraint(
                fields=["campaign", "system_event"], name="broadcast_once"
            )
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["due_at"],
                name="broadcast_due",
                condition=models.Q(status="running"),
            )
        ]

    def __str__(self) -> str:
        return f"{self.version}: {self.system_event}"

    @property
    def progress(self) -> float:
        """How far it got, from 0 to 1."""
        if self.status == self.Status.FINISHED or not self.last_id:
            return 1.0
        if self.version.pace:
            aim = self.entered + (self.still_match or 0)
            aim = min(aim, self.version.pace.get("stop_after") or aim)
            return self.entered / aim if aim else 0.0
        return self.after_id / self.last_id


class Run(CustomerOwned):
    """One customer's way through one version, with the event that started it."""

    class Status(models.TextChoices):
        WAITING = "waiting", "Waiting"
        FINISHED = "finished", "Finished"
        FAILED = "failed", "Failed"

    customer = models.ForeignKey(
        Customer,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="runs",
    )
    # Not checked by the database, here and for passages: what was published is never
    # deleted, and to ask so for each run takes as long as to write it.
    campaign = models.ForeignKey(
        Campaign, models.CASCADE, db_constraint=False, db_index=False
    )
    #: The version it entered by. Which one it is on now, `step` tells: see Move.
    version = models.ForeignKey(
        Version, models.CASCADE, db_constraint=False, db_index=False
    )
    event = models.ForeignKey(
        Event, models.DO_NOTHING, null=True, db_constraint=False, db_index=False
    )
    system_event = models.ForeignKey(
        SystemEvent, models.DO_NOTHING, null=True, db_constraint=False, db_index=False
    )
    #: Where it stands; the last step it was at, once it is over.
    step = models.ForeignKey(Step, models.CASCADE, db_constraint=False, db_index=False)
    status = models.CharField(max_length=10, choices=Status, default=Status.WAITING)
    #: When the engine shall look again; empty while it waits for its message.
    due_at = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    reason = models.TextField(blank=True)
    started_at = models.DateTimeField()
    arrived_at = models.DateTimeField(help_text="When it came to the step it is at.")
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            # The same event never starts the same campaign twice for a customer.
            models.UniqueConstraint(
                fields=["customer", "campaign", "event"],
                name="run_once_per_event",
            ),
            models.UniqueConstraint(
                fields=["customer", "campaign", "system_event"],
                name="run_once_per_system_event",
            ),
        ]
        indexes: ClassVar = [
            # For the engine: runs that are over, nearly all, are left out.
            models.Index(
                fields=["campaign", "due_at", "id"],
                name="run_lane",
                condition=models.Q(status="waiting", due_at__isnull=False),
            ),
            # For how long the queue is.
            models.Index(
                fields=["due_at", "id"],
                name="run_due",
                condition=models.Q(status="waiting", due_at__isnull=False),
            ),
            # For reports.
            models.Index(fields=["version", "step", "status"], name="run_report"),
            # For the runs of a campaign, newest first.
            models.Index(fields=["campaign", "-id"], name="run_campaign"),
        ]

    def __str__(self) -> str:
        return f"run {self.pk}"


class Move(models.Model):
    """An order to take the runs of an older version over to the one at work.

    The row is the queue; see campaigns/moving.py.
    """

    class Status(models.TextChoices):
        RUNNING = "running", "Under way"
        DONE = "done", "Done"
        STOPPED = "stopped", "Stopped"

    campaign = models.ForeignKey(
        Campaign, models.CASCADE, db_index=False, related_name="moves"
    )
    from_version = models.ForeignKey(Version, models.CASCADE, related_name="+")
    to_version = models.ForeignKey(Version, models.CASCADE, related_name="+")
    status = models.CharField(
        max_length=7, choices=Status, default=Status.RUNNING, db_index=True
    )
    #: Why it stopped.
    reason = models.TextField(blank=True)
    #: How far it got, in the order of run.id.
    after_id = models.BigIntegerField(default=0)
    moved = models.PositiveBigIntegerField(default=0)
    #: Who stayed when it was over, and why: see campaigns.moving.Standing.
    stayed = models.JSONField(default=list)
    by = models.CharField(max_length=200)
    asked_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["campaign"],
                condition=models.Q(status="running"),
                name="move_one_at_a_time",
            )
        ]
        indexes: ClassVar = [models.Index(fields=["campaign"], name="move_campaign")]

    def __str__(self) -> str:
        return f"{self.from_version} → {self.to_version.number}"


class MovedRun(CustomerOwned):
    """A run that was taken from a step of one version to the same step of another."""

    customer = models.ForeignKey(
        Customer,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    run = models.ForeignKey(
        Run, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    move = models.ForeignKey(
        Move, models.CASCADE, db_index=False, related_name="moved_runs"
    )
    from_step = models.ForeignKey(
        Step, models.CASCADE, db_index=False, related_name="+"
    )
    to_step = models.ForeignKey(Step, models.CASCADE, db_index=False, related_name="+")
    at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            # Leading id: looked up by run alone.
            models.UniqueConstraint(
                fields=["run", "move", "customer"], name="moved_run_once"
            )
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["move", "from_step", "to_step"], name="moved_run_report"
            )
        ]

    def __str__(self) -> str:
        return f"{self.run_id}: {self.from_step} → {self.to_step}"


class Passage(CustomerOwned):
    """A step that a run has left: which way it took, when, and why."""

    customer = models.ForeignKey(
        Customer,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    run = models.ForeignKey(
        Run,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="passages",
    )
    step = models.ForeignKey(Step, models.CASCADE, db_constraint=False, db_index=False)
    way = models.CharField(max_length=32)
    reason = models.TextField(blank=True)
    arrived_at = models.DateTimeField()
    left_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            # A run goes through a step once. Leading id: looked up by run alone.
            models.UniqueConstraint(
                fields=["run", "step", "customer"], name="passage_once"
            )
        ]
        indexes: ClassVar = [
            models.Index(fields=["step", "way"], name="passage_report"),
        ]

    def __str__(self) -> str:
        return f"{self.step} → {self.way}"


class WebhookCall(CustomerOwned):
    """What a step of a run tells a system outside, and what that answered.

    The row is the queue; see campaigns/webhooks/.
    """

    class Status(models.TextChoices):
        QUEUED = "queued", "Queued"
        SENDING = "sending", "Sending"
        DONE = "done", "Done"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"

    #: Still to be worked on.
    OPEN = (Status.QUEUED, Status.SENDING)

    customer = models.ForeignKey(
        Customer,
        models.CASCADE,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    run = models.ForeignKey(
        Run, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    campaign = models.ForeignKey(
        Campaign, models.CASCADE, db_index=False, related_name="+"
    )
    step = models.ForeignKey(Step, models.CASCADE, db_index=False, related_name="+")
    #: The same at every try, so that the receiver can tell a repetition.
    webhook_id = models.UUIDField("ID", default=uuid.uuid4)
    url = models.TextField("address")
    #: Whom the calls are counted for that are made at the same time: host:port.
    receiver = models.CharField(max_length=300)
    #: To the letter, so that every try is the same.
    body = models.TextField()
    status = models.CharField(max_length=10, choices=Status, default=Status.QUEUED)
    attempts = models.PositiveSmallIntegerField("tries", default=0)
    #: When to try it; of a call that is being sent, when its sender counts as dead.
    due_at = models.DateTimeField()
    expires_at = models.DateTimeField("given up")
    created_at = models.DateTimeField("written")
    finished_at = models.DateTimeField("ended", null=True)
    #: Of the try that is under way, and of no other.
    lease = models.UUIDField(null=True)
    http_status = models.PositiveSmallIntegerField("status of the answer", null=True)
    answer = models.JSONField(null=True)
    reason = models.TextField(blank=True)
    #: Every try: [{"at": ..., "ms": ..., "status": ..., "error": ...}].
    tries = models.JSONField("history", default=list)
    #: The run was told how it ended, or does not wait for it any more.
    is_settled = models.BooleanField(default=False)

    class Meta:
        verbose_name = "webhook call"
        permissions: ClassVar = [
            ("see_webhook_secret", "Can see the secret that signs webhook calls")
        ]
        constraints: ClassVar = [
            # A run makes the call of a step once.
            models.UniqueConstraint(
                fields=["customer", "run", "step"], name="webhook_once"
            )
        ]
        indexes: ClassVar = [
            # For senders: what has ended, nearly all, is left out.
            models.Index(
                fields=["campaign", "receiver", "due_at", "id"],
                name="webhook_queue",
                condition=models.Q(status__in=["queued", "sending"]),
            ),
            # For telling runs.
            models.Index(
                fields=["id"],
                name="webhook_unsettled",
                condition=models.Q(
                    is_settled=False, status__in=["done", "failed", "cancelled"]
                ),
            ),
            # For the answers of runs, by which customers are not asked.
            models.Index(fields=["run"], name="webhook_run"),
            # For operators, who look for what went wrong or has not gone yet.
            models.Index(
                fields=["status", "id"],
                name="webhook_not_done",
                condition=~models.Q(status="done"),
            ),
        ]

    def __str__(self) -> str:
        return f"call {self.pk}"
