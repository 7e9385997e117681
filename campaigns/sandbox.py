"""Which campaigns an event would start, for a dry run (see `events.sandbox`).

A customer's event is really dispatched and its run really taken on, by the functions
that always do; the dry run takes all of it back. A system event could start a run for
everyone, so those are counted.
"""

from __future__ import annotations

from datetime import datetime

from campaigns import engine, reasons
from campaigns.actions import ACTIONS
from campaigns.actions.filter import NEGATIVE, POSITIVE, missing_reason, read_rule
from campaigns.dispatch import (
    Waiting,
    is_fresh,
    matching,
    start_run,
    waiting_versions,
)
from campaigns.entry import may_enter
from campaigns.models import Entry, Passage, Run, Step, Version
from campaigns.panels import say
from customers.models import Customer
from events.models import Kind
from events.sandbox import (
    After,
    CampaignTouched,
    Coming,
    ConditionTried,
    Reach,
    StepTried,
    Stored,
    TextLacks,
    Trial,
)
from messaging import render
from messaging.models import Message
from messaging.send import why_not
from segments import rules
from segments.compile import MissingField, compile_rule
from segments.estimate import SAMPLE, Draw
from segments.reading import TooDear, read_only
from segments.sql import Sql, sql
from smartcomm.core.db import fetch_all
from smartcomm.core.errors import UserError

#: So many campaigns that wait for one event are asked.
MOST = 50
#: So many of the customers that a system event would reach are named.
SHOWN = 5
#: Counting them exactly may take so long; then they are estimated.
EXACT_MS = 1_000
EVENT_VARIABLES = "client.event"


def look(coming: Coming, trial: Trial) -> After:
    """Which campaigns wait for the event, and what it would start in each."""

    def after(stored: Stored) -> list[CampaignTouched]:
        versions = waiting_versions([stored.type_id], kind=Kind(stored.kind))
        if len(versions) > MOST:
            trial.note(
                f"{len(versions):,} campaigns wait for “{stored.name}”; the {MOST} "
                "oldest were asked."
            )
        return [_touched(version, stored, trial) for version in versions[:MOST]]

    return after


def _touched(version: Version, stored: Stored, trial: Trial) -> CampaignTouched:
    told = CampaignTouched(
        version.campaign_id,
        version.campaign.name,
        starts=False,
        reasons=[],
        conditions=reasons.conditions(
            version, {stored.pk: stored.context}, moments={stored.pk: trial.now}
        )[stored.pk],
    )
    told.reasons = _reasons(version, stored, told.conditions, now=trial.now)
    if told.reasons:
        return told
    steps = {step.key: step for step in version.steps.select_related("content")}
    if stored.kind == Kind.SYSTEM:
        told.starts = True
        _reach(told, version, steps, stored, trial)
        return told
    event = Waiting(
        0,
        stored.pk,
        stored.customer_id or 0,
        stored.type_id,
        stored.occurred_at,
        stored.received_at,
    )
    run = start_run(version, event, now=trial.now)
    if run is None:
        told.reasons = [_turned_away(version, stored)]
        return told
    told.starts = True
    engine.go_on(run, now=trial.now)
    told.path = _path(run, now=trial.now)
    told.lacks = _lacks(steps, stored, customer_id=stored.customer_id)
    return told


# --- does it start? ---------------------------------------------------------------


def _reasons(
    version: Version,
    stored: Stored,
    conditions: list[ConditionTried],
    *,
    now: datetime,
) -> list[str]:
    """Why it starts nothing, whoever the customer is."""
    found = []
    if stored.backfill:
        found.append(reasons.BACKFILL)
    elif not is_fresh(version, stored.occurred_at, stored.received_at, now=now):
        found.append(reasons.too_old(version, "ago"))
    found += reasons.unmet(conditions)
    if not found and not matching(version, [stored.pk], now=now):
        found.append("The campaign's conditions do not fit the event.")
    return found


def _turned_away(version: Version, stored: Stored) -> str:
    entry = Entry.objects.filter(
        campaign=version.campaign_id, customer=stored.customer_id
    ).first()
    return reasons.turned_away(version, entry.entered_at if entry else None)


# --- one run ----------------------------------------------------------------------


def _path(run: Run, *, now: datetime) -> list[StepTried]:
    """The steps that the run has left, and the one where it stays."""
    passed = Passage.objects.filter(run_id=run.pk, customer_id=run.customer_id)
    path = [
        _step(one.step, way=one.way, reason=one.reason)
        for one in passed.select_related("step").order_by("pk")
    ]
    if run.status != Run.Status.FINISHED:
        path.append(_step(run.step, reason=run.reason or _not_sent(run, now=now)))
    return path


def _step(step: Step, *, way: str = "", reason: str = "") -> StepTried:
    action = ACTIONS.get(step.action)
    label = action.label if action else step.action
    does = say({"action": step.action, "config": step.config})
    return StepTried(step.key, step.action, label, does, way, reason)


def _not_sent(run: Run, *, now: datetime) -> str:
    """Why the message that the run waits for would not be sent."""
    message = Message.objects.filter(
        run_id=run.pk, customer_id=run.customer_id, step=run.step.key
    ).first()
    return why_not(message, now=now) if message else ""


def _lacks(
    steps: dict[str, Step], stored: Stored, *, customer_id: int | None
) -> list[TextLacks]:
    """What the texts of these steps would lack: of this customer and event, or of the
    event alone where it is for everyone."""
    customer = (
        Customer.objects.get(pk=customer_id)
        if customer_id is not None
        else Customer(attributes={})
    )
    found = []
    for step in steps.values():
        if step.content is None:
            continue
        try:
            missing = render.render(
                step.content,
                customer=customer,
                context=stored.context,
                event_name=stored.name,
                occurred_at=stored.occurred_at,
            ).missing
        except UserError:
            # A filter that cannot do its work says so on the path.
            continue
        if customer_id is None:
            missing = [name for name in missing if name.startswith(EVENT_VARIABLES)]
        if missing:
            found.append(TextLacks(step.key, missing))
    return found


# --- everyone ---------------------------------------------------------------------


def _reach(
    told: CampaignTouched,
    version: Version,
    steps: dict[str, Step],
    stored: Stored,
    trial: Trial,
) -> None:
    """How many a system event lets in, and by which ways: as broadcasts do it."""
    first = steps[version.start]
    told.lacks = _lacks(steps, stored, customer_id=None)
    if first.action != "filter_customers":
        told.path = [_step(first)]
        told.reach = _count(version, None, stored, trial)
        return
    negative = first.next.get(NEGATIVE)
    rule = read_rule(first.config)
    try:
        compile_rule(rule, now=trial.now, context=stored.context, restrict=[])
    except MissingField as missing:
        reason = missing_reason(sorted(missing.codes))
        told.path = _by(first, NEGATIVE, steps, reason=reason)
        told.reach = (
            _count(version, None, stored, trial) if negative else Reach(0, True, 0, [])
        )
        return
    told.path = _by(first, POSITIVE, steps)
    if negative:
        told.path += _by(first, NEGATIVE, steps)
    told.reach = _count(version, rule, stored, trial)


def _by(
    step: Step, way: str, steps: dict[str, Step], *, reason: str = ""
) -> list[StepTried]:
    """A step left by this way, and the one that follows."""
    following = step.next.get(way)
    path = [_step(step, way=way, reason=reason)]
    return [*path, _step(steps[following])] if following else path


COUNT = """
    WITH member AS MATERIALIZED ({})
    SELECT (SELECT count(*) FROM member),
           ARRAY(SELECT external_id FROM customers_customer
                  WHERE id IN (SELECT customer_id FROM member ORDER BY 1 LIMIT {})
                  ORDER BY id)
"""


def _count(
    version: Version, rule: rules.Rule | None, stored: Stored, trial: Trial
) -> Reach | None:
    """Those who meet the rule (None: everyone) and may enter; exact if time allows."""
    try:
        with read_only(trial.left_ms(EXACT_MS)):
            count, sample = _members(version, rule, stored, trial, among=None)
            return Reach(count, True, 0, sample)
    except TooDear:
        pass
    try:
        with read_only(trial.left_ms()):
            draw = Draw()
            asked = draw.more(SAMPLE)
            found, sample = _members(version, rule, stored, trial, among=asked)
            count, margin = draw.estimate(found)
            return Reach(count, False, margin, sample)
    except TooDear:
        trial.note(
            f"How many customers “{version.campaign.name}” would reach takes too long "
            "to count."
        )
        return None


def _members(
    version: Version,
    rule: rules.Rule | None,
    stored: Stored,
    trial: Trial,
    *,
    among: list[int] | None,
) -> tuple[int, list[str]]:
    if rule is None:
        some = Sql("") if among is None else sql("WHERE id = ANY({}::bigint[])", among)
        members = sql("SELECT id AS customer_id FROM customers_customer {}", some)
    else:
        query = compile_rule(
            rule, now=trial.now, context=stored.context, restrict=among
        )
        members = Sql(query.sql, tuple(query.params))
    query_ = sql(COUNT, may_enter(members, version, now=trial.now), SHOWN)
    count, sample = fetch_all(query_.text, query_.params)[0]
    return int(count), list(sample)
