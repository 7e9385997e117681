"""The runs of two customers who are merged.

Waiting runs of both go on. Where both went through a campaign for the same event, one
person would be written to twice: the run of the former ends there.
"""

from __future__ import annotations

from collections.abc import Mapping

from campaigns.webhooks import queue as calls
from customers.merging import Pair
from events.merging import COPIES
from messaging import queue
from smartcomm.core.db import execute, fetch_all

# A broadcast starts runs for customers whom it does not lock: none may be under way
# while one of them goes. Before entries and runs, as broadcasts themselves do.
HOLD_BROADCASTS = "LOCK TABLE campaigns_broadcast IN EXCLUSIVE MODE"
# What a sender has in hand, and what a run waits for: locked before the runs, as those
# do who tell runs how their calls ended.
HOLD_CALLS = """
    SELECT FROM campaigns_webhookcall
     WHERE customer_id = %(former)s
       AND (status IN ('queued', 'sending') OR NOT is_settled)
     ORDER BY id FOR UPDATE
"""
HOLD_RUNS = """
    SELECT FROM campaigns_run
     WHERE customer_id = %(former)s AND status = 'waiting'
     ORDER BY id FOR UPDATE
"""

MOVE_ENTRIES = """
    WITH theirs AS (
        DELETE FROM campaigns_entry WHERE customer_id = %(former)s RETURNING *
    )
    INSERT INTO campaigns_entry AS mine (customer_id, campaign_id, entered_at)
    SELECT %(kept)s, campaign_id, entered_at FROM theirs ORDER BY campaign_id
        ON CONFLICT (customer_id, campaign_id) DO UPDATE
       SET entered_at = greatest(mine.entered_at, excluded.entered_at)
"""

# A twin no longer names its event, since a customer has one run for it.
MOVE_RUNS = f"""
    WITH theirs AS (
        SELECT run.id, run.campaign_id, run.status, run.system_event_id,
               coalesce(copies.event_id, run.event_id) AS event_id
          FROM campaigns_run AS run
          LEFT JOIN ({COPIES}) AS copies ON copies.copy_id = run.event_id
         WHERE run.customer_id = %(former)s
    ), judged AS (
        SELECT theirs.*,
               EXISTS (SELECT FROM campaigns_run AS mine
                        WHERE mine.customer_id = %(kept)s
                          AND mine.campaign_id = theirs.campaign_id
                          AND mine.event_id = theirs.event_id)
               OR EXISTS (SELECT FROM campaigns_run AS mine
                           WHERE mine.customer_id = %(kept)s
                             AND mine.campaign_id = theirs.campaign_id
                             AND mine.system_event_id = theirs.system_event_id)
               AS is_twin
          FROM theirs
    )
    UPDATE campaigns_run AS run
       SET customer_id = %(kept)s,
           event_id = CASE WHEN is_twin THEN NULL ELSE judged.event_id END,
           system_event_id = CASE WHEN is_twin THEN NULL
                                  ELSE run.system_event_id END,
           reason = CASE WHEN is_twin THEN trim(run.reason || ' ' || %(why)s)
                         ELSE run.reason END,
           status = CASE WHEN is_twin AND run.status = 'waiting' THEN 'finished'
                         ELSE run.status END,
           due_at = CASE WHEN is_twin THEN NULL ELSE run.due_at END,
           finished_at = CASE WHEN is_twin THEN coalesce(run.finished_at, %(now)s)
                              ELSE run.finished_at END
      FROM judged
     WHERE run.id = judged.id AND run.customer_id = %(former)s
 RETURNING run.id, is_twin AND judged.status = 'waiting'
"""  # noqa: S608  (the query of events.merging)

MOVE_PASSAGES = """
    UPDATE campaigns_passage AS passage SET customer_id = %(kept)s
      FROM campaigns_run AS run
     WHERE run.customer_id = %(kept)s
       AND passage.run_id = run.id AND passage.customer_id = %(former)s
"""

MOVE_MOVED = """
    UPDATE campaigns_movedrun AS moved SET customer_id = %(kept)s
      FROM campaigns_run AS run
     WHERE run.customer_id = %(kept)s
       AND moved.run_id = run.id AND moved.customer_id = %(former)s
"""

# What a call says stays: the former ID leads to the one who was kept, for ever.
MOVE_CALLS = """
    UPDATE campaigns_webhookcall SET customer_id = %(kept)s
     WHERE customer_id = %(former)s
"""

# What both were turned away for stays once.
MOVE_TURNED_AWAY = f"""
    WITH theirs AS (
        DELETE FROM campaigns_turnedaway WHERE customer_id = %(former)s RETURNING *
    )
    INSERT INTO campaigns_turnedaway (customer_id, campaign_id, version_id, event_id,
                                      system_event_id, entered_at, at)
    SELECT %(kept)s, campaign_id, version_id,
           coalesce(copies.event_id, theirs.event_id), system_event_id, entered_at, at
      FROM theirs LEFT JOIN ({COPIES}) AS copies ON copies.copy_id = theirs.event_id
     ORDER BY theirs.id
        ON CONFLICT DO NOTHING
"""  # noqa: S608  (the query of events.merging)

WHY = (
    "“{former_id}” was merged into “{kept_id}”, who went through this campaign for "
    "the same event."
)


def hold_runs(pair: Pair) -> Mapping[str, int]:
    execute(HOLD_BROADCASTS)
    execute(HOLD_CALLS, pair.params)
    execute(HOLD_RUNS, pair.params)
    return {}


def move_runs(pair: Pair) -> Mapping[str, int]:
    why = WHY.format(former_id=pair.former_id, kept_id=pair.kept_id)
    execute(MOVE_ENTRIES, pair.params)
    execute(MOVE_TURNED_AWAY, pair.params)
    moved = fetch_all(MOVE_RUNS, {**pair.params, "why": why})
    execute(MOVE_PASSAGES, pair.params)
    execute(MOVE_MOVED, pair.params)
    execute(MOVE_CALLS, pair.params)
    ended = [run_id for run_id, was_ended in moved if was_ended]
    if ended:
        queue.cancel_runs(ended, customer_id=pair.kept, reason=why, now=pair.now)
        calls.cancel_runs(ended, customer_id=pair.kept, reason=why, now=pair.now)
    return {"runs": len(moved), "runs_ended": len(ended)}
