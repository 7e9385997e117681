"""Publish, pause, resume, archive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Exists, OuterRef

from campaigns import (
    approving,
    circles,
    declared,
    editing,
    graph,
    overdue,
    pace,
    planned,
)
from campaigns.actions import ACTIONS
from campaigns.actions.checks import Draft
from campaigns.actions.happen import NAME as WAIT_FOR_EVENT
from campaigns.actions.send import Send
from campaigns.bells import TICK
from campaigns.drawing import DrawingInvalid, as_json
from campaigns.engine import ARCHIVED
from campaigns.graph import Problem
from campaigns.models import (
    Campaign,
    PublishRequest,
    Run,
    StateChange,
    Step,
    Version,
)
from campaigns.triggers import PLANNED, TRIGGERS
from campaigns.webhooks import queue as calls
from customers.models import MailingCategory
from events.models import EventType, Kind
from messaging import queue
from messaging.models import Content
from segments.usage import hold
from smartcomm.core import doorbell
from smartcomm.core.clock import database_now
from smartcomm.core.db import execute
from smartcomm.core.errors import Conflict, Several, UserError


@dataclass(frozen=True, slots=True)
class Published:
    """What was published, and what the marketer should know about it."""

    version: Version
    warnings: list[str]


@dataclass
class Findings:
    """What stands in the way of publishing, and what should be known."""

    errors: list[UserError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def note(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if problem.level == "error":
                self.errors.append(DrawingInvalid(problem.message, field=problem.step))
            else:
                self.warnings.append(problem.message)


def check(version: Version) -> Findings:
    """Ask whether a draft is sound: its graph, its rules, its texts."""
    findings = Findings()
    drawing = as_json(version)
    findings.note(
        [
            *graph.problems(drawing, ways=_WAYS, idle=_IDLE),
            *pace.problems(version),
            *circles.problems(version),
        ]
    )
    event_type = EventType.objects.filter(name=version.event_name).first()
    for found in TRIGGERS[version.trigger_kind].check(version):
        if isinstance(found, UserError):
            findings.errors.append(found)
        else:
            findings.warnings.append(found)
    to_come = declared.by_drawing(drawing)
    is_of_customers = TRIGGERS[version.trigger_kind].on == Kind.CUSTOMER
    if version.event_name in to_come and not is_of_customers:
        findings.errors.append(
            DrawingInvalid(
                f"“{version.event_name}” starts it as a system event, and a step asks "
                "for it as an event of the customer. It cannot be both.",
                field="trigger.event",
            )
        )
    draft = Draft(version, event_type, drawing, database_now(), to_come)
    for step in version.steps.all():
        findings.note(ACTIONS[step.action].check(step, draft))
    return findings


def publish(
    campaign: Campaign,
    *,
    user: AbstractBaseUser | None = None,
    by: str = "",
    word: str = "",
) -> Published:
    """Put the draft to work. Runs under way finish on the version they started on.

    `by` names whoever is no user; `word` is what they say to a request for it. Raises
    Conflict when there is no draft, or where somebody else must publish it; Several
    when it is not sound.
    """
    name = user.get_username() if user else by
    with transaction.atomic():
        hold()  # So that no segment it asks for is deleted or archived meanwhile.
        campaign = Campaign.objects.select_for_update().get(pk=campaign.pk)
        if campaign.status == Campaign.Status.ARCHIVED:
            raise Conflict("The campaign is archived, so it cannot be published.")
        version = campaign.versions.filter(status=Version.Status.DRAFT).first()
        if version is None:
            raise Conflict("There is nothing to publish: change the campaign first.")
        approving.refuse_author(version, by=name)
        findings = check(version)
        if findings.errors:
            raise Several(findings.errors)
        approving.note_published(version, by=name, word=word)
        now = database_now()
        version.event_type = TRIGGERS[version.trigger_kind].prepare(version)
        planned.hand_over(campaign, planned.at_work(campaign), version, now=now)
        freeze_texts(version)
        declare(version)
        campaign.versions.filter(status=Version.Status.PUBLISHED).update(
            status=Version.Status.SUPERSEDED
        )
        version.status = Version.Status.PUBLISHED
        version.published_at = now
        version.published_by = user  # type: ignore[assignment]
        version.save()
        if campaign.status == Campaign.Status.DRAFT:
            campaign.status = Campaign.Status.PUBLISHED
            _write_down(campaign, at=now)
        campaign.save(update_fields=["status", "updated_at"])
        _mark_awaited()
    return Published(version, findings.warnings)


def approve(
    campaign: Campaign,
    *,
    user: AbstractBaseUser | None = None,
    by: str = "",
    word: str = "",
) -> Published:
    """Publish the draft as somebody else has asked for it, and as it was then."""
    with transaction.atomic():
        campaign = Campaign.objects.select_for_update().get(pk=campaign.pk)
        version = campaign.versions.filter(status=Version.Status.DRAFT).first()
        approving.find_asked(
            campaign,
            stamp=editing.stamp(as_json(version)) if version else "",
            by=user.get_username() if user else by,
        )
        return publish(campaign, user=user, by=by, word=word)


def ask(campaign: Campaign, *, by: str) -> PublishRequest:
    """Ask that somebody else publish the draft. Raises what publishing would."""
    with transaction.atomic():
        campaign = Campaign.objects.select_for_update().get(pk=campaign.pk)
        version = campaign.versions.filter(status=Version.Status.DRAFT).first()
        if version is None:
            raise Conflict("There is nothing to publish: change the campaign first.")
        findings = check(version)
        if findings.errors:
            raise Several(findings.errors)
        return approving.ask(version, stamp=editing.stamp(as_json(version)), by=by)


def pause(campaign: Campaign) -> None:
    """Stop new runs, steps and messages at once. Nothing is lost; see `resume`."""
    with transaction.atomic():
        _change(campaign, Campaign.Status.PUBLISHED, Campaign.Status.PAUSED)
        queue.hold(campaign.pk)
        _mark_awaited()


def resume(campaign: Campaign, *, skip_older_than: timedelta | None = None) -> None:
    """Go on where it was paused. Events in between have started nothing.

    What became due while it was paused goes on at once; `skip_older_than`: but for what
    has been due for longer, which is left out (see campaigns.overdue).
    """
    with transaction.atomic():
        if skip_older_than is not None:
            paused = Campaign.objects.select_for_update().get(pk=campaign.pk)
            if paused.status == Campaign.Status.PAUSED:
                now = database_now()
                overdue.skip(paused, before=now - skip_older_than, now=now)
        _change(campaign, Campaign.Status.PAUSED, Campaign.Status.PUBLISHED)
        queue.release(campaign.pk)
        calls.wake()
        _mark_awaited()
        doorbell.ring(TICK)


def archive(campaign: Campaign) -> None:
    """End it for good: runs under way end, messages not sent yet are not sent."""
    with transaction.atomic():
        campaign = Campaign.objects.select_for_update().get(pk=campaign.pk)
        if campaign.status == Campaign.Status.ARCHIVED:
            raise Conflict("The campaign is archived already.")
        campaign.status = Campaign.Status.ARCHIVED
        campaign.save(update_fields=["status", "updated_at"])
        _write_down(campaign, at=database_now())
        Run.objects.filter(campaign=campaign, status=Run.Status.WAITING).update(
            status=Run.Status.FINISHED,
            due_at=None,
            finished_at=database_now(),
            reason=ARCHIVED,
        )
        queue.cancel(campaign.pk, reason=ARCHIVED)
        calls.cancel(campaign.pk, reason=ARCHIVED, now=database_now())
        queue.release(campaign.pk)
        _mark_awaited()


_WAYS = {name: action.ways for name, action in ACTIONS.items()}
_IDLE = {name for name, action in ACTIONS.items() if action.is_idle}


def _change(campaign: Campaign, old: str, new: str) -> None:
    changed = Campaign.objects.filter(pk=campaign.pk, status=old).update(
        status=new, updated_at=database_now()
    )
    if not changed:
        campaign.refresh_from_db(fields=["status"])
        raise Conflict(
            f"The campaign is {campaign.get_status_display().lower()}, so this cannot "
            f"be done; it must be {Campaign.Status(old).label.lower()}."
        )
    campaign.status = new
    _write_down(campaign, at=database_now())


def _write_down(campaign: Campaign, *, at: datetime) -> None:
    """Keep since when the campaign has been in this state; its row is locked."""
    StateChange.objects.create(campaign=campaign, status=campaign.status, at=at)


def _mark_awaited() -> None:
    """Keep `EventType.is_awaited` true: a campaign at work waits for the type, or a
    run of one does."""
    # One after another: a pause that does not see what is published meanwhile would
    # say that nobody waits.
    execute("SELECT pg_advisory_xact_lock(hashtext('campaigns.awaited'))")
    waiting = Exists(
        Version.objects.filter(
            event_type=OuterRef("pk"),
            status=Version.Status.PUBLISHED,
            campaign__status=Campaign.Status.PUBLISHED,
        ).exclude(trigger_kind__in=PLANNED)
    ) | Exists(
        # By runs of versions that were superseded as well, and while it is paused.
        Step.objects.filter(
            event_type=OuterRef("pk"),
            version__status__in=[Version.Status.PUBLISHED, Version.Status.SUPERSEDED],
        ).exclude(version__campaign__status=Campaign.Status.ARCHIVED)
    )
    EventType.objects.filter(waiting, is_awaited=False).update(is_awaited=True)
    EventType.objects.filter(~waiting, is_awaited=True).update(is_awaited=False)


def freeze_texts(version: Version) -> None:
    """Keep the texts of all sending steps as they are now, for ever."""
    categories = dict(MailingCategory.objects.values_list("code", "pk"))
    for step in version.steps.all():
        action = ACTIONS[step.action]
        if isinstance(action, Send):
            texts = {name: step.config[name] for name in action.texts}
            step.content = Content.objects.create(
                channel=action.channel,
                category_id=categories.get(step.config["category"] or ""),
                missing=step.config["missing"],
                **texts,
            )
            step.save(update_fields=["content"])


def declare(version: Version) -> None:
    """Declare the events its steps speak of first, so that no system event takes the
    names, and say which of them are waited for."""
    steps = list(version.steps.all())
    types = {
        name: EventType.objects.get_or_create(
            name=name, defaults={"kind": Kind.CUSTOMER}
        )[0]
        for name in sorted(declared.by_steps((one.action, one.config) for one in steps))
    }
    for step in steps:
        if step.action == WAIT_FOR_EVENT:
            step.event_type = types[step.config["event"]]
            step.save(update_fields=["event_type"])
