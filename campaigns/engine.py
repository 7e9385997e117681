"""Due runs, one step on, and on, until each waits or is over.

All steps that a run takes at once are one transaction with the messages they queue;
a crash leaves the run where it stood.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import DatabaseError, transaction

from campaigns.actions import ACTIONS
from campaigns.actions.base import ANSWERS, Go, Outcome, Started, WaitUntil
from campaigns.actions.send import SENT
from campaigns.actions.values import DONE, FAILED
from campaigns.actions.webhook import NAME as CALL_WEBHOOK
from campaigns.models import Campaign, Run, Step
from campaigns.webhooks import answers
from campaigns.webhooks import queue as calls
from events.models import Event, SystemEvent
from messaging import queue
from messaging.models import Message
from messaging.rows import as_json
from smartcomm.core.clock import database_now
from smartcomm.core.db import execute, fetch_all, sqlstate
from smartcomm.core.errors import UserError

logger = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5
PAUSE = timedelta(minutes=1)
#: What passes by itself: workers that wait for each other crosswise, for the lists and
#: customers that their runs change, or a lock that was not to be had.
PASSING = {"40P01", "40001", "55P03"}
#: So often a batch is tried then, with nothing done in between.
TRIES = 5
#: The way of those whose message was not sent. It leads nowhere.
NOT_SENT = "not_sent"
#: What the engine never asks a run for; to read a time takes longer than all the rest.
UNREAD = ("started_at",)
#: Why a run or a broadcast ended, if that was the reason.
ARCHIVED = "The campaign was archived."


@dataclass
class _Batch:
    """Runs in hand, and what has changed about them."""

    now: datetime
    #: Nothing but runs and messages is changed: see campaigns.rehearsal.
    is_rehearsal: bool = False
    steps: dict[int, Step] = field(default_factory=dict)
    by_key: dict[tuple[int, str], Step] = field(default_factory=dict)
    changed: dict[int, Run] = field(default_factory=dict)
    passages: list[dict[str, Any]] = field(default_factory=list)

    def load_steps(self, runs: Iterable[Run]) -> None:
        at = Step.objects.filter(pk__in={run.step_id for run in runs})
        for step in Step.objects.filter(version__in=at.values("version")):
            self.steps[step.pk] = step
            self.by_key[step.version_id, step.key] = step

    def lock(self, run_ids: Iterable[int], customer_ids: Iterable[int]) -> list[Run]:
        """Those of these runs that are waiting, locked and with their steps."""
        runs = list(
            Run.objects.select_for_update(of=("self",))
            .filter(
                pk__in=run_ids, customer_id__in=customer_ids, status=Run.Status.WAITING
            )
            .order_by("pk")
            .defer(*UNREAD)
        )
        self.load_steps(runs)
        return runs

    def leave(self, run: Run, way: str, reason: str = "") -> bool:
        """Take a run on by this way. Returns whether it has come to another step."""
        step = self.steps[run.step_id]
        self.changed[run.pk] = run
        following = step.next.get(way)
        if following and (step.version_id, following) not in self.by_key:
            run.status, run.due_at, run.finished_at = Run.Status.FAILED, None, self.now
            run.reason = f"“{way}” leads to “{following}”, and there is no such step."
            return False
        self.passages.append(
            {
                "customer_id": run.customer_id,
                "run_id": run.pk,
                "step_id": step.pk,
                "way": way,
                "reason": reason,
                "arrived_at": run.arrived_at,
                "left_at": self.now,
            }
        )
        run.attempts = 0
        if following:
            run.step = self.by_key[step.version_id, following]
            run.arrived_at = run.due_at = self.now
            return True
        run.status, run.due_at = Run.Status.FINISHED, None
        run.finished_at, run.reason = self.now, reason
        return False

    def save(self) -> None:
        runs = sorted(self.changed.values(), key=lambda run: run.pk)
        rows = [
            {
                "id": run.pk,
                "customer_id": run.customer_id,
                "step_id": run.step_id,
                "status": str(run.status),
                "due_at": run.due_at,
                "attempts": run.attempts,
                "reason": run.reason,
                "arrived_at": run.arrived_at,
                "finished_at": run.finished_at,
            }
            for run in runs
        ]
        execute(UPDATE, [as_json(rows)])
        if self.passages:
            execute(LEAVE, [as_json(self.passages)])


#: So many runs of a campaign are claimed, however many campaigns have some.
SHARE = 20

# In lanes, one for each campaign with runs that wait for a time: those of a paused one,
# and a million that are due in another, keep none waiting. Along the index run_lane.
CLAIM = """
    WITH RECURSIVE lane (campaign_id) AS (
        (SELECT campaign_id FROM campaigns_run
          WHERE status = 'waiting' AND due_at IS NOT NULL
          ORDER BY campaign_id LIMIT 1)
        UNION ALL
        SELECT following.campaign_id
          FROM lane, LATERAL (
              SELECT campaign_id FROM campaigns_run
               WHERE status = 'waiting' AND due_at IS NOT NULL
                 AND campaign_id > lane.campaign_id
               ORDER BY campaign_id LIMIT 1
          ) AS following
    ), open_lane AS MATERIALIZED (
        SELECT lane.campaign_id
          FROM lane JOIN campaigns_campaign AS campaign ON campaign.id = campaign_id
         WHERE campaign.status IN ('published', 'archived')
    ), claimed AS MATERIALIZED (
        SELECT due.*
          FROM open_lane, LATERAL (
              SELECT id, campaign_id, due_at
                FROM campaigns_run AS run
               WHERE status = 'waiting' AND due_at IS NOT NULL
                 AND run.campaign_id = open_lane.campaign_id AND due_at <= %(now)s
               ORDER BY due_at, id
               LIMIT least(%(limit)s, greatest(
                         %(limit)s / (SELECT count(*) FROM open_lane), %(share)s))
                 FOR UPDATE SKIP LOCKED
          ) AS due
    )
    SELECT id FROM claimed
     ORDER BY row_number() OVER (PARTITION BY campaign_id ORDER BY due_at, id), due_at
     LIMIT %(limit)s
"""

UPDATE = """
    UPDATE campaigns_run AS run
       SET step_id = new.step_id, status = new.status, due_at = new.due_at,
           attempts = new.attempts, reason = new.reason, arrived_at = new.arrived_at,
           finished_at = new.finished_at
      FROM json_to_recordset(%s::json) AS new (
               id bigint, customer_id bigint, step_id bigint, status text,
               due_at timestamptz, attempts smallint, reason text,
               arrived_at timestamptz, finished_at timestamptz
           )
     WHERE run.id = new.id AND run.customer_id = new.customer_id
"""

LEAVE = """
    INSERT INTO campaigns_passage
        (customer_id, run_id, step_id, way, reason, arrived_at, left_at)
    SELECT *
      FROM json_to_recordset(%s::json) AS passed (
               customer_id bigint, run_id bigint, step_id bigint, way text,
               reason text, arrived_at timestamptz, left_at timestamptz
           )
"""


def advance_runs(
    *, limit: int = 500, now: datetime | None = None, is_rehearsal: bool = False
) -> int:
    """Take due runs as far as they go. Returns how many were due.

    A rehearsal changes no customers, lists and events, and calls nobody.
    """
    now = now or database_now()
    for attempt in range(1, TRIES + 1):
        try:
            with transaction.atomic():
                claimed = _claim(limit, now=now)
                batch = _Batch(now, is_rehearsal)
                if claimed:
                    _go_on(batch, _still_at_work(batch, claimed))
                return len(claimed)
        except DatabaseError as error:
            if sqlstate(error) not in PASSING or attempt == TRIES:
                raise
            # With fewer in hand, two are less in each other's way.
            limit = max(1, limit // 10)
    raise AssertionError("The last try returns or raises.")


def _claim(limit: int, *, now: datetime) -> list[Run]:
    """Lock due runs that no other worker holds, some of each campaign."""
    ids = fetch_all(CLAIM, {"now": now, "limit": limit, "share": SHARE})
    return list(
        Run.objects.filter(pk__in=[pk for (pk,) in ids])
        .order_by("due_at", "pk")
        .defer(*UNREAD)
    )


def go_on(run: Run, *, now: datetime) -> None:
    """Take one run as far as it goes, inside a transaction that has started it."""
    _go_on(_Batch(now), [run])


def look_again(
    step: Step, runs: Sequence[Run], *, now: datetime
) -> Mapping[int, Outcome]:
    """What this step, which only waits, would do with these runs now."""
    batch = _Batch(now)
    batch.load_steps(runs)
    return _execute(batch, step, _with_events(batch, runs))


def _go_on(batch: _Batch, runs: Sequence[Run]) -> None:
    batch.load_steps(runs)
    moving = _with_events(batch, runs)
    while moving:
        moving = _one_step_on(batch, moving)
    batch.save()


def settle_runs(*, limit: int = 500, now: datetime | None = None) -> int:
    """Take on the runs whose messages have been sent, or not. Returns how many.

    Those it was sent to go on; for the others the run ends with the reason.
    """
    now = now or database_now()
    with transaction.atomic():
        settled = {message.run_id: message for message in queue.take_settled(limit)}
        if not settled:
            return 0
        batch = _Batch(now)
        for run in batch.lock(
            settled, {message.customer_id for message in settled.values()}
        ):
            message = settled[run.pk]
            if batch.steps[run.step_id].key != message.step:
                continue
            if message.status in Message.WENT_OUT:
                batch.leave(run, SENT)
            else:
                batch.leave(run, NOT_SENT, message.detail or message.reason)
        batch.save()
    return len(settled)


def settle_calls(*, limit: int = 500, now: datetime | None = None) -> int:
    """Take on the runs whose calls of systems outside have ended. Returns how many."""
    now = now or database_now()
    with transaction.atomic():
        settled = {call.run_id: call for call in calls.take_settled(limit)}
        if not settled:
            return 0
        batch = _Batch(now)
        for run in batch.lock(settled, {call.customer_id for call in settled.values()}):
            call = settled[run.pk]
            # By key: it may have been moved to another version meanwhile.
            if batch.steps[run.step_id].key == call.step:
                batch.leave(run, DONE if call.is_done else FAILED, call.reason)
        batch.save()
    return len(settled)


def _one_step_on(batch: _Batch, moving: Sequence[Started]) -> list[Started]:
    """Execute the step of each run. Returns those that have come to another one."""
    groups: dict[int, list[Started]] = defaultdict(list)
    for started in moving:
        groups[started.run.step_id].append(started)
    still = []
    for step_id, group in groups.items():
        outcomes = _execute(batch, batch.steps[step_id], group)
        for started in group:
            run, outcome = started.run, outcomes.get(started.run.pk)
            batch.changed[run.pk] = run
            if outcome is not None:
                run.attempts, run.reason = 0, ""  # A fault before has passed.
            match outcome:
                case Go(way, reason):
                    started.passed.append(batch.steps[step_id].action)
                    if batch.leave(run, way, reason):
                        still.append(started)
                case WaitUntil(moment):
                    run.due_at = moment
                case None:
                    pass  # It failed, and _execute has said so on the run.
                case _:
                    run.due_at = None
    return still


def _execute(
    batch: _Batch, step: Step, group: Sequence[Started]
) -> Mapping[int, Outcome]:
    """The outcomes of one step. A run that cannot be executed holds up no other."""
    try:
        action = ACTIONS[step.action]
        execute = action.rehearse if batch.is_rehearsal else action.execute
        with transaction.atomic():
            return execute(step, group, now=batch.now)
    except Exception as error:
        if isinstance(error, DatabaseError) and sqlstate(error) in PASSING:
            raise  # No run's fault: see advance_runs.
        # Whatever else it is: it must not poison the queue.
        if len(group) > 1:
            outcomes: dict[int, Outcome] = {}
            for started in group:
                outcomes |= _execute(batch, step, [started])
            return outcomes
        logger.exception("engine.fault", run=group[0].run.pk, step=step.key)
        _put_back(group[0].run, error, now=batch.now)
        return {}


def _put_back(run: Run, error: Exception, *, now: datetime) -> None:
    run.attempts += 1
    run.due_at = now + PAUSE * 2 ** (run.attempts - 1)
    run.reason = (
        error.message
        if isinstance(error, UserError)
        else "Internal error; see the log."
    )
    if run.attempts >= MAX_ATTEMPTS:
        run.status, run.due_at, run.finished_at = Run.Status.FAILED, None, now


def _still_at_work(batch: _Batch, runs: Sequence[Run]) -> list[Run]:
    """End the runs of archived campaigns, and return the others.

    Archiving ends what it sees; this is for what began in the same moment.
    """
    archived = set(
        Campaign.objects.filter(
            pk__in={run.campaign_id for run in runs}, status=Campaign.Status.ARCHIVED
        ).values_list("pk", flat=True)
    )
    for run in runs:
        if run.campaign_id in archived:
            run.status, run.due_at = Run.Status.FINISHED, None
            run.finished_at, run.reason = batch.now, ARCHIVED
            batch.changed[run.pk] = run
    return [run for run in runs if run.campaign_id not in archived]


def _with_events(batch: _Batch, runs: Sequence[Run]) -> list[Started]:
    """Runs with the name, time and context of the events that started them, and with
    what systems outside have answered.

    A run whose event has been erased fails, and says so.
    """
    fields = ("pk", "type__name", "occurred_at", "context")
    of_customers = [run for run in runs if run.event_id]
    own = Event.objects.filter(
        pk__in=[run.event_id for run in of_customers],
        customer_id__in=[run.customer_id for run in of_customers],
    )
    system = SystemEvent.objects.filter(
        pk__in={run.system_event_id for run in runs if run.system_event_id}
    )
    events = {("own", pk): rest for pk, *rest in own.values_list(*fields)}
    events |= {("system", pk): rest for pk, *rest in system.values_list(*fields)}
    answered = _answers(batch, runs)
    started = []
    for run in runs:
        key = ("own", run.event_id) if run.event_id else ("system", run.system_event_id)
        if key in events:
            name, occurred_at, context = events[key]
            told = answered.get(run.pk, {})
            if told:
                context = {**context, ANSWERS: told}
            started.append(Started(run, name, occurred_at, context, answers=told))
        else:
            run.status, run.due_at, run.finished_at = Run.Status.FAILED, None, batch.now
            run.reason = "The event that started it has been erased."
            batch.changed[run.pk] = run
    return started


def _answers(batch: _Batch, runs: Sequence[Run]) -> dict[int, dict[str, Any]]:
    """What systems outside have answered in these runs. Asked where any was called."""
    calling = {
        step.version_id for step in batch.steps.values() if step.action == CALL_WEBHOOK
    }
    return answers.of_runs(
        {
            run.pk: run.customer_id
            for run in runs
            if batch.steps[run.step_id].version_id in calling
        }
    )
