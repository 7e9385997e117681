"""The pages of a campaign beside its drawing: runs, versions, publishing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from django.contrib import messages
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from campaigns import (
    approving,
    drawing,
    editing,
    moving,
    panels,
    publish,
    rehearsing,
    sure,
)
from campaigns.actions import ACTIONS
from campaigns.actions.send import Send
from campaigns.broadcast import stop
from campaigns.changes import changes
from campaigns.desk import DEEDS, Desk, page_context
from campaigns.models import Broadcast, Campaign, Run, Version
from campaigns.overdue import overdue
from campaigns.portions import Progress, progress
from campaigns.triggers import trigger_of
from campaigns.way import moves, say_moved, stops, waits_for
from events.models import EventField
from segments.answers import on
from smartcomm.core.clock import database_now
from smartcomm.core.errors import Invalid, Several, UserError
from smartcomm.core.look import variables

PER_PAGE = 50
MAX_NAME: int = Campaign._meta.get_field("name").max_length  # type: ignore[assignment]


# --- runs and broadcasts ----------------------------------------------------------


def runs_page(desk: Desk) -> HttpResponse:
    """The runs of a campaign, newest first, and its broadcasts."""
    request = desk.request
    if request.method == "POST":
        return _stop_broadcast(desk)
    status = request.GET.get("status", "")
    before = request.GET.get("before", "")
    runs = Run.objects.filter(campaign=desk.campaign).select_related(
        "customer", "step", "version", "event__type", "system_event__type"
    )
    if status in Run.Status:
        runs = runs.filter(status=status)
    if before.isascii() and before.isdigit():
        runs = runs.filter(pk__lt=int(before))
    found = list(runs.order_by("-pk")[: PER_PAGE + 1])
    return _page(
        desk,
        "runs",
        "campaigns/runs.html",
        runs=found[:PER_PAGE],
        older=found[PER_PAGE - 1].pk if len(found) > PER_PAGE else None,
        is_first=not before,
        chosen=status,
        statuses=[("", "All"), *Run.Status.choices],
        broadcasts=[] if before else _broadcasts(desk.campaign),
    )


def _broadcasts(campaign: Campaign) -> list[tuple[Broadcast, Progress | None]]:
    """The latest, each with how far it is where it has a pace."""
    found = Broadcast.objects.filter(campaign=campaign).select_related(
        "system_event__type", "version", "campaign"
    )
    now = timezone.now()
    return [(one, progress(one, now=now)) for one in found[:20]]


def _stop_broadcast(desk: Desk) -> HttpResponse:
    if not desk.may_publish:
        raise PermissionDenied
    pk = desk.request.POST.get("broadcast", "")
    found = Broadcast.objects.filter(
        campaign=desk.campaign, pk=int(pk) if pk.isdecimal() and len(pk) < 19 else 0
    ).first()
    if found is None:
        raise Http404
    question = sure.stop(desk, found)
    if found.status == Broadcast.Status.RUNNING and not question.is_answered(desk):
        return _page(desk, "runs", "campaigns/sure.html", question=question)
    who = desk.request.user.get_username()
    if stop(found, by=who, now=database_now()):
        said = f"“{found.system_event.type}” lets nobody else in."
        desk.admin.log_change(desk.request, desk.campaign, said)
        messages.success(desk.request, said)
    else:
        messages.info(desk.request, "It was over already.")
    return HttpResponseRedirect(desk.request.path)


# --- one run ----------------------------------------------------------------------


def run_page(admin: Any, request: HttpRequest, run: Run) -> HttpResponse:
    """One customer's way through one version."""
    started_by = run.event or run.system_event
    event_url = ""
    if started_by is not None:
        try:
            event_url = reverse(
                f"admin:events_{started_by._meta.model_name}_change",
                args=[started_by.pk],
            )
        except NoReverseMatch:
            event_url = ""
    return TemplateResponse(
        request,
        "campaigns/run.html",
        {
            **admin.admin_site.each_context(request),
            "title": f"Run {run.pk}",
            "opts": admin.opts,
            "original": run,
            "run": run,
            "tone": panels.STATUS_TONES[run.status],
            "started_by": started_by,
            "event_url": event_url,
            "context_table": variables(
                started_by.context,
                labels=dict(
                    EventField.objects.filter(type=started_by.type_id)
                    .exclude(label="")
                    .values_list("code", "label")
                ),
            )
            if started_by is not None and started_by.context
            else "",
            "stops": stops(run),
            "moves": [(one, say_moved(one)) for one in moves(run)],
            "waits_for": waits_for(run, now=timezone.now()),
        },
    )


# --- versions ---------------------------------------------------------------------


def versions_page(desk: Desk) -> HttpResponse:
    """All versions, and who changed what."""
    if desk.request.method == "POST":
        with transaction.atomic():
            # What the question tells of is what the answer takes away.
            Campaign.objects.select_for_update().get(pk=desk.campaign.pk)
            return _versions_deed(desk)
    published_by = {
        version.pk: version.published_by
        for version in desk.campaign.versions.select_related("published_by")
    }
    log = (
        LogEntry.objects.filter(
            content_type=ContentType.objects.get_for_model(Campaign),
            object_id=str(desk.campaign.pk),
        )
        .select_related("user")
        .order_by("-pk")[:100]
    )
    compared = _compared(desk)
    under_way = moving.standing(desk.campaign)
    return _page(
        desk,
        "versions",
        "campaigns/versions.html",
        compared=compared,
        changes=changes(*(drawing.as_json(one) for one in compared))
        if compared
        else [],
        rows=[
            (version, published_by[version.pk], under_way.get(version.number, 0))
            for version in desk.versions
        ],
        requests=desk.campaign.publish_requests.all()[:20],
        moves=[
            (move, moving.in_words(move))
            for move in desk.campaign.moves.select_related("from_version", "to_version")
        ],
        log=log,
    )


def _compared(desk: Desk) -> tuple[Version, Version] | None:
    """The two versions that `?from=1&to=3` names; `to` alone: and the one before it."""
    by_number = {str(version.number): version for version in desk.versions}
    after = by_number.get(desk.request.GET.get("to", ""))
    if after is None:
        return None
    older = [one for one in desk.versions if one.number < after.number]
    asked = desk.request.GET.get("from", "")
    before = by_number.get(asked) or (older[0] if older and not asked else None)
    return (before, after) if before is not None else None


def _versions_deed(desk: Desk) -> HttpResponse:
    """Draw an old version again, or throw the draft away. Asks first where something
    is lost."""
    if not desk.may_edit:
        raise PermissionDenied
    number = desk.request.POST.get("version", "")
    version = next((one for one in desk.versions if str(one.number) == number), None)
    if version is None:
        raise Http404
    here = reverse("admin:campaigns_campaign_versions", args=[desk.campaign.pk])
    is_discard = desk.request.POST.get("deed") == "discard"
    if is_discard and (version is not desk.draft or desk.published is None):
        messages.error(
            desk.request, "Only a draft of a published campaign can be discarded."
        )
        return HttpResponseRedirect(here)
    question = sure.discard(desk) if is_discard else sure.draw_again(desk, version)
    if question and not question.is_answered(desk):
        return _page(desk, "versions", "campaigns/sure.html", question=question)
    if is_discard:
        approving.void(desk.campaign, by=_who(desk), why="The draft was discarded.")
        version.delete()
        said = f"The draft (version {number}) is discarded."
    else:
        try:
            drawing.save_draft(
                desk.campaign,
                drawing.as_json(version),
                user=desk.request.user,  # type: ignore[arg-type]
            )
        except UserError as error:
            messages.error(desk.request, error.message)
            return HttpResponseRedirect(here)
        said = f"The draft is drawn as version {number} was."
    desk.admin.log_change(desk.request, desk.campaign, said)
    messages.success(desk.request, said)
    return HttpResponseRedirect(
        reverse("admin:campaigns_campaign_change", args=[desk.campaign.pk])
    )


# --- publishing, and the other deeds ----------------------------------------------


def publish_page(desk: Desk) -> HttpResponse:
    """What publishing would do, what stands in its way; then do it."""
    if not desk.may_publish:
        raise PermissionDenied
    errors: list[UserError] = []
    if desk.request.method == "POST":
        try:
            if desk.request.POST.get("stamp") != desk.stamp:
                raise UserError(
                    "The drawing was changed since this page was opened. Look at it"
                    " again; this page shows it now."
                )
            said = _publish_deed(desk)
        except Several as several:
            errors = several.errors
        except UserError as error:
            errors = [error]
        else:
            desk.admin.log_change(desk.request, desk.campaign, said)
            messages.success(desk.request, said)
            return HttpResponseRedirect(
                reverse("admin:campaigns_campaign_change", args=[desk.campaign.pk])
            )
    if desk.draft is None:
        messages.info(desk.request, "There is nothing to publish: change it first.")
        return HttpResponseRedirect(
            reverse("admin:campaigns_campaign_change", args=[desk.campaign.pk])
        )
    findings = publish.check(desk.draft)
    shown_errors = {error.message: error for error in [*errors, *findings.errors]}
    return _page(
        desk,
        "publish",
        "campaigns/publish.html",
        errors=[
            (error.message, _place(desk, error.field))
            for error in shown_errors.values()
        ],
        warnings=findings.warnings,
        sentences=_what_it_will_do(desk),
        changes=changes(drawing.as_json(desk.published), desk.definition)
        if desk.published
        else [],
        rehearsal=rehearsing.of_this_drawing(desk),
        shown=panels.show(desk.definition),
        blocked=bool(findings.errors),
        needs_two=approving.is_needed(),
        asked=approving.open_request(desk.campaign),
        said_no=approving.said_no(desk.draft),
        is_own=not approving.may_publish(desk.draft, by=_who(desk)),
        who=_who(desk),
        status=409 if errors else 200,
    )


def _publish_deed(desk: Desk) -> str:
    """Publish, or what comes before it where a second person does it. Answers what
    was done, in a sentence."""
    data, user, who = desk.request.POST, desk.request.user, _who(desk)
    word = data.get("word", "")
    match data.get("deed"):
        case "ask":
            request = publish.ask(desk.campaign, by=who)
            return f"Somebody else is asked to publish version {request.version}."
        case "decline":
            request = approving.decline(desk.campaign, by=who, word=word)
            if request.asked_by == who:
                return f"Nobody is asked any more to publish version {request.version}."
            return f"Version {request.version} is not published: {request.word}"
        case "approve":
            done = publish.approve(desk.campaign, user=user, word=word)  # type: ignore[arg-type]
            return f"Version {done.version.number} is approved and published."
    done = publish.publish(desk.campaign, user=user)  # type: ignore[arg-type]
    return f"Version {done.version.number} is published."


def _who(desk: Desk) -> str:
    return desk.request.user.get_username()


def _place(desk: Desk, field: str) -> str:
    """The page where an error can be put right."""
    page = reverse("admin:campaigns_campaign_change", args=[desk.campaign.pk])
    if field.startswith(("trigger", "entry", "pace")):
        return f"{page}?open=trigger"
    if any(step["key"] == field for step in desk.definition["steps"]):
        return f"{page}?open=step&step={field}"
    return page if field and field != "word" else ""


def _what_it_will_do(desk: Desk) -> list[str]:
    definition = desk.definition
    trigger, told = trigger_of(definition)
    sentences = [
        *trigger.meaning(told),
        f"A customer may {panels.say_entry(definition)}.",
    ]
    if pace := panels.say_pace(definition):
        sentences.insert(
            1,
            f"They are taken in portions: {pace}. Before each one it is asked anew who "
            "matches; it ends when nobody else does.",
        )
    if desk.draft is not None and (times := desk.next_times(desk.draft)):
        sentences.insert(1, f"The next times: {', '.join(map(on, times))}.")
    channels = Counter(
        str(action.channel.label)
        for step in definition["steps"]
        if isinstance(action := ACTIONS[step["action"]], Send)
    )
    if channels:
        listed = ", ".join(
            f"{label} ({number} steps)" if number > 1 else label
            for label, number in channels.items()
        )
        sentences.append(f"It writes to customers by {listed}.")
    else:
        sentences.append("Nobody is written to: no step sends anything.")
    if desk.published is not None:
        under_way = moving.standing(desk.campaign).get(desk.published.number, 0)
        sentences.append(
            f"Version {desk.published.number} takes nobody in any more."
            f" {under_way:,} who are under way finish on it, unless you move them"
            " afterwards: see Versions."
        )
    if desk.campaign.status == Campaign.Status.PAUSED:
        sentences.append("The campaign stays paused until you resume it.")
    return sentences


def state_page(desk: Desk, deed: str) -> HttpResponse:
    """Pause, resume, copy or archive, after a page that says what that means."""
    if deed not in DEEDS:
        raise Http404
    is_copy = deed == "copy"
    if is_copy:
        if not desk.admin.has_add_permission(desk.request):
            raise PermissionDenied
    elif not desk.may_publish:
        raise PermissionDenied
    here = reverse("admin:campaigns_campaign_change", args=[desk.campaign.pk])
    if desk.request.method == "POST":
        try:
            if is_copy:
                made = _copy(desk)
                here = reverse("admin:campaigns_campaign_change", args=[made.pk])
                said = f"“{made}” is a copy of “{desk.campaign}”."
            else:
                deeds: dict[str, Callable[[Campaign], None]] = {
                    "pause": publish.pause,
                    "resume": partial(publish.resume, skip_older_than=_skipped(desk)),
                    "archive": publish.archive,
                }
                deeds[deed](desk.campaign)
                said = f"“{desk.campaign}” is {_DONE[deed]}."
                desk.admin.log_change(desk.request, desk.campaign, said)
        except UserError as error:
            messages.error(desk.request, error.message)
        else:
            messages.success(desk.request, said)
        return HttpResponseRedirect(here)
    under_way = Run.objects.filter(
        version__campaign=desk.campaign, status=Run.Status.WAITING
    ).count()
    return _page(
        desk,
        "state",
        "campaigns/state.html",
        deed_name=deed,
        deed=DEEDS[deed],
        under_way=None if is_copy else under_way,
        overdue=overdue(desk.campaign, before=timezone.now())
        if deed == "resume"
        else None,
        offered=desk.campaign.status in DEEDS[deed].offered_when,
    )


def _skipped(desk: Desk) -> timedelta | None:
    """What was chosen for what is overdue: leave out what is older, or nothing."""
    hours = desk.request.POST.get("hours", "")
    if desk.request.POST.get("overdue") != "skip":
        return None
    if not hours.isdecimal() or len(hours) > 5:
        raise Invalid("Say in whole hours from when on it is too old.", field="hours")
    return timedelta(hours=int(hours))


_DONE = {"pause": "paused", "resume": "at work again", "archive": "archived"}


def _copy(desk: Desk) -> Campaign:
    end, number = " (copy)", 2
    while Campaign.objects.filter(name=(name := _named(desk.campaign, end))).exists():
        end, number = f" (copy {number})", number + 1
    campaign = Campaign.objects.create(
        name=name,
        description=desk.campaign.description,
        created_by=desk.request.user,  # type: ignore[misc]
    )
    drawing.save_draft(campaign, desk.definition, user=desk.request.user)  # type: ignore[arg-type]
    desk.admin.log_addition(desk.request, campaign, f"Copied from {desk.campaign}.")
    return campaign


def _named(campaign: Campaign, end: str) -> str:
    """Its name with this at the end, cut where it would be too long."""
    return campaign.name[: MAX_NAME - len(end)] + end


def _page(
    desk: Desk, tab: str, template: str, *, status: int = 200, **more: Any
) -> HttpResponse:
    return TemplateResponse(
        desk.request,
        template,
        {
            **page_context(desk, tab=tab, **more),
            "stamp": editing.stamp(desk.definition),
        },
        status=status,
    )
