"""Publish, pause, resume, archive."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from campaigns import graph, overdue, planned
from campaigns.actions import ACTIONS
from campaigns.actions.base import ANSWERS
from campaigns.actions.customer import AddToList, RemoveFromList
from campaigns.actions.filter import read_rule
from campaigns.actions.happen import NAME as WAIT_FOR_EVENT
from campaigns.actions.send import Send
from campaigns.actions.split import CONTROL
from campaigns.actions.webhook import NAME as CALL_WEBHOOK
from campaigns.bells import TICK
from campaigns.drawing import DrawingInvalid, as_json
from campaigns.engine import ARCHIVED
from campaigns.models import Campaign, Run, StateChange, Step, Version
from campaigns.triggers import PLANNED, TRIGGERS
from campaigns.webhooks import answers
from campaigns.webhooks import queue as calls
from customers.models import MailingCategory
from events.models import EventField, EventType, Kind
from messaging import contract, queue, render
from messaging.models import Content
from segments import rules
from segments.dictionary import Dictionary
from segments.models import Segment
from segments.usage import hold, refuse_archived
from smartcomm.core import doorbell
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


def check(version: Version) -> Findings:
    """Ask whether a draft is sound: its graph, its rules, its texts."""
    findings = Findings()
    drawing = as_json(version)
    for problem in graph.problems(drawing, ways=_WAYS):
        if problem.level == "error":
            findings.errors.append(DrawingInvalid(problem.message, field=problem.step))
        else:
            findings.warnings.append(problem.message)
    event_type = EventType.objects.filter(name=version.event_name).first()
    for found in TRIGGERS[version.trigger_kind].check(version):
        if isinstance(found, UserError):
            findings.errors.append(found)
        else:
            findings.warnings.append(found)
    for step in version.steps.all():
        _check_step(step, version, event_type, drawing, findings)
    return findings


def publish(campaign: Campaign, *, user: AbstractBaseUser | None = None) -> Published:
    """Put the draft to work. Runs under way finish on the version they started on.

    Raises Conflict when there is no draft, Several when it is not sound.
    """
    with transaction.atomic():
        hold()  # So that no segment it asks for is deleted or archived meanwhile.
        campaign = Campaign.objects.select_for_update().get(pk=campaign.pk)
        if campaign.status == Campaign.Status.ARCHIVED:
            raise Conflict("The campaign is archived, so it cannot be published.")
        version = campaign.versions.filter(status=Version.Status.DRAFT).first()
        if version is None:
            raise Conflict("There is nothing to publish: change the campaign first.")
        findings = check(version)
        if findings.errors:
            raise Several(findings.errors)
        now = timezone.now()
        version.event_type = TRIGGERS[version.trigger_kind].prepare(version)
        planned.hand_over(campaign, planned.at_work(campaign), version, now=now)
        freeze_texts(version)
        _await_events(version)
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
                now = timezone.now()
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
        _write_down(campaign, at=timezone.now())
        Run.objects.filter(campaign=campaign, status=Run.Status.WAITING).update(
            status=Run.Status.FINISHED,
            due_at=None,
            finished_at=timezone.now(),
            reason=ARCHIVED,
        )
        queue.cancel(campaign.pk, reason=ARCHIVED)
        calls.cancel(campaign.pk, reason=ARCHIVED, now=timezone.now())
        queue.release(campaign.pk)
        _mark_awaited()


_WAYS = {name: action.ways for name, action in ACTIONS.items()}


def _change(campaign: Campaign, old: str, new: str) -> None:
    changed = Campaign.objects.filter(pk=campaign.pk, status=old).update(
        status=new, updated_at=timezone.now()
    )
    if not changed:
        campaign.refresh_from_db(fields=["status"])
        raise Conflict(
            f"The campaign is {campaign.get_status_display().lower()}, so this cannot "
            f"be done; it must be {Campaign.Status(old).label.lower()}."
        )
    campaign.status = new
    _write_down(campaign, at=timezone.now())


def _write_down(campaign: Campaign, *, at: datetime) -> None:
    """Keep since when the campaign has been in this state; its row is locked."""
    StateChange.objects.create(campaign=campaign, status=campaign.status, at=at)


def _mark_awaited() -> None:
    """Keep `EventType.is_awaited` true: a campaign at work waits for the type, or a
    run of one does."""
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


def _await_events(version: Version) -> None:
    for step in version.steps.filter(action=WAIT_FOR_EVENT):
        step.event_type, _ = EventType.objects.get_or_create(
            name=step.config["event"], defaults={"kind": Kind.CUSTOMER}
        )
        step.save(update_fields=["event_type"])


def _check_step(
    step: Step,
    version: Version,
    event_type: EventType | None,
    drawing: dict[str, Any],
    findings: Findings,
) -> None:
    action = ACTIONS[step.action]
    if step.action == "filter_customers":
        try:
            rule = read_rule(step.config)
            Dictionary.of(rule)
            refuse_archived(rule)
        except UserError as error:
            findings.errors.append(
                DrawingInvalid(f"In “{step.key}”: {error.message}", field=step.key)
            )
    elif step.action == "refresh_filter":
        asked = {
            one["key"]
            for one in drawing["steps"]
            if one["action"] == "filter_customers"
        }
        if step.config["filter"] in asked:
            to = graph.arrows(drawing["steps"])
            if step.key not in graph.reachable(step.config["filter"], to):
                findings.errors.append(
                    DrawingInvalid(
                        f"“{step.key}” asks “{step.config['filter']}” again, which "
                        "does not come before it. Choose an earlier filter.",
                        field=step.key,
                    )
                )
        else:
            findings.errors.append(
                DrawingInvalid(
                    f"“{step.key}” asks the filter “{step.config['filter']}” again, "
                    "and there is none. Choose a filter of this campaign.",
                    field=step.key,
                )
            )
    elif isinstance(action, AddToList | RemoveFromList):
        _check_list(step, findings)
    elif step.action == "record_event":
        _check_circle(step, version, findings)
    elif step.action == WAIT_FOR_EVENT:
        _check_waited_for(step, findings)
    elif step.action == "control_group":
        _check_control(step, drawing, findings)
    elif isinstance(action, Send):
        texts = [step.config[name] for name in action.texts]
        known = TRIGGERS[version.trigger_kind].carries is None
        for finding in contract.check(texts, version.event_name if known else ""):
            findings.warnings.append(f"In “{step.key}”: {finding.message}")
    _check_answers(step, _answers_used(step), drawing, findings)
    if step.action == CALL_WEBHOOK and event_type is not None:
        _check_hidden(step, event_type, findings)
    if TRIGGERS[version.trigger_kind].carries is not None:
        _check_carried(step, version, findings)
        return
    word = "filter" if step.action == "filter_customers" else "step"
    _warn_of_unseen(
        {
            code
            for code in action.event_codes(step.config)
            if not code.startswith(answers.PREFIX)
        },
        event_type,
        f"The {word} “{step.key}”",
        findings,
    )


def _check_carried(step: Step, version: Version, findings: Findings) -> None:
    """An event that we record ourselves says this, and never anything else."""
    carried = TRIGGERS[version.trigger_kind].carries or {}
    action = ACTIONS[step.action]
    codes = set(action.event_codes(step.config))
    if isinstance(action, Send):
        for name in action.texts:
            for variable in render.variables(step.config[name]):
                path = variable.removeprefix(contract.CONTEXT)
                if path != variable:
                    codes.add(path)
    for code in sorted(codes):
        if code in carried or code.startswith(answers.PREFIX):
            continue
        findings.errors.append(
            DrawingInvalid(
                f"“{step.key}” asks for “{code}”, which “{version.event_name}” never "
                f"has; it says {', '.join(carried)}.",
                field=step.key,
            )
        )


def _answers_used(step: Step) -> set[str]:
    """The steps whose answers this one speaks of."""
    action = ACTIONS[step.action]
    codes = action.event_codes(step.config)
    if isinstance(action, Send):
        for name in action.texts:
            codes |= {
                variable.removeprefix("client.")
                for variable in render.variables(step.config[name])
            }
    return {code.split(".")[1] for code in codes if code.startswith(answers.PREFIX)}


def _check_answers(
    step: Step, used: set[str], drawing: dict[str, Any], findings: Findings
) -> None:
    """An answer is there only after the step that asks for it."""
    to = graph.arrows(drawing["steps"])
    asking = {one["key"] for one in drawing["steps"] if one["action"] == CALL_WEBHOOK}
    for key in sorted(used):
        if key not in asking:
            wrong = f"the answer of “{key}”, which calls no webhook"
        elif key == step.key or step.key not in graph.reachable(key, to):
            wrong = f"the answer of “{key}”, which does not come before it"
        else:
            continue
        findings.errors.append(
            DrawingInvalid(
                f"“{step.key}” speaks of {wrong}. Name a step “Call webhook” that "
                "comes earlier.",
                field=step.key,
            )
        )


def _check_hidden(step: Step, event_type: EventType, findings: Findings) -> None:
    if EventField.objects.filter(type=event_type, code=ANSWERS).exists():
        findings.warnings.append(
            f"“{event_type.name}” has a field “{ANSWERS}” itself. After "
            f"“{step.key}” the answers of webhooks stand there."
        )


def _check_list(step: Step, findings: Findings) -> None:
    segment = Segment.objects.filter(pk=step.config["segment"]).first()
    if segment is None or segment.archived_at is not None:
        state = "archived" if segment else "gone"
        findings.errors.append(
            DrawingInvalid(
                f"The list in “{step.key}” is {state}. Choose another one.",
                field=step.key,
            )
        )


def _check_circle(step: Step, version: Version, findings: Findings) -> None:
    """Refuse an event that would start this campaign again, and again.

    Directly, or through others that answer what this one records. A campaign that
    customers enter once, or not again within some days, breaks the circle.
    """
    if (
        version.trigger_kind != Version.Trigger.EVENT
        or version.entry_rule != Version.Entry.EVERY_EVENT
    ):
        return
    answering: dict[str, list[tuple[str, str]]] = defaultdict(list)
    others = Step.objects.filter(
        action="record_event",
        version__status=Version.Status.PUBLISHED,
        version__trigger_kind=Version.Trigger.EVENT,
        version__entry_rule=Version.Entry.EVERY_EVENT,
    ).exclude(version__campaign=version.campaign_id)
    for started_by, config, name in others.values_list(
        "version__event_name", "config", "version__campaign__name"
    ):
        answering[started_by].append((config["event"], name))
    seen: set[str] = set()
    ahead: list[tuple[str, list[str]]] = [(step.config["event"], [])]
    while ahead:
        event, through = ahead.pop()
        if event == version.event_name:
            by = f", by way of {', '.join(f'“{one}”' for one in through)}" * bool(
                through
            )
            findings.errors.append(
                DrawingInvalid(
                    f"“{step.key}” records an event that starts this campaign "
                    f"again{by}: it would never end. Record another event, or let "
                    "customers enter once.",
                    field=step.key,
                )
            )
            return
        if event not in seen:
            seen.add(event)
            ahead += [(to, [*through, name]) for to, name in answering[event]]


def _check_waited_for(step: Step, findings: Findings) -> None:
    name = step.config["event"]
    event_type = EventType.objects.filter(name=name).first()
    if event_type is None:
        findings.warnings.append(
            f"“{step.key}” waits for “{name}”, which has not been seen yet. It is "
            "declared now; check that the name is spelt as it will be sent."
        )
    elif event_type.kind != Kind.CUSTOMER:
        findings.errors.append(
            DrawingInvalid(
                f"“{step.key}” waits for “{name}”, which is a system event and of no "
                "customer. Choose another event.",
                field=step.key,
            )
        )
    else:
        where = rules.parse_where(step.config["where"], event_values=True)
        codes = {line.field for line in where}
        _warn_of_unseen(codes, event_type, f"The step “{step.key}”", findings)


def _check_control(step: Step, drawing: dict[str, Any], findings: Findings) -> None:
    """Whoever is held back is not written to, whatever way they take."""
    held_back = step.next.get(CONTROL)
    if held_back is None:
        return
    after = graph.reachable(held_back, graph.arrows(drawing["steps"]))
    for other in drawing["steps"]:
        if other["key"] in after and isinstance(ACTIONS[other["action"]], Send):
            findings.errors.append(
                DrawingInvalid(
                    f"“{step.key}” holds customers back, and the way of those leads "
                    f"to “{other['key']}”, which writes to them. Lead it elsewhere.",
                    field=step.key,
                )
            )


def _warn_of_unseen(
    codes: set[str], event_type: EventType | None, where: str, findings: Findings
) -> None:
    if event_type is None or not codes:
        return
    seen = set(
        EventField.objects.filter(type=event_type, code__in=codes).values_list(
            "code", flat=True
        )
    )
    for code in sorted(codes - seen):
        findings.warnings.append(
            f"{where} asks for “{code}”, which no “{event_type.name}” has had yet."
        )
