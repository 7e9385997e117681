"""Where a rehearsal takes place: a connection on which nothing real can be written.

Temporary tables come before others of the same name, so that the very statements of
dispatch, engine and sending read and write copies that belong to this connection. Of
the events a temporary view shows those that had occurred at the time on the clock.
Then every transaction is read only: PostgreSQL lets it write temporary tables alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime

from django.db import DEFAULT_DB_ALIAS, connections, models, transaction
from django.db.utils import load_backend

from campaigns.models import (
    Broadcast,
    Campaign,
    Entry,
    Move,
    MovedRun,
    Passage,
    Run,
    Step,
    StepCount,
    TurnedAway,
    Version,
    WebhookCall,
)
from campaigns.triggers import PLANNED
from events.models import (
    Event,
    EventField,
    EventType,
    PendingEvent,
    PendingSystemEvent,
    Source,
    SystemEvent,
)
from messaging.models import Content, Delivery, Hold, Message
from smartcomm.core.db import execute, fetch_all

#: What is written, empty at the beginning.
WRITTEN: list[type[models.Model]] = [
    Campaign,
    Version,
    Step,
    Content,
    Entry,
    TurnedAway,
    StepCount,
    Broadcast,
    Run,
    Passage,
    Move,
    MovedRun,
    WebhookCall,
    PendingEvent,
    PendingSystemEvent,
    Message,
    Delivery,
    Hold,
]
#: What is written, as it is at the beginning: publishing declares events.
COPIED: list[type[models.Model]] = [EventType, EventField, Source]
#: Ids of what is declared here, so far away that nothing real has them.
AWAY = 1_000_000
#: What is seen as it was; where the version itself plans system events, these are
#: written, and only they are there.
SEEN: list[type[models.Model]] = [Event, SystemEvent]

TABLE = "CREATE TEMPORARY TABLE {name} (LIKE {real} INCLUDING ALL)"
VIEW = """
    CREATE TEMPORARY VIEW {name} AS SELECT * FROM {real}
     WHERE occurred_at <= current_setting('smartcomm.clock')::timestamptz
"""
CLOCK = "SELECT set_config('smartcomm.clock', %s, false)"
NUMBERING = """
    SELECT setval(pg_get_serial_sequence('pg_temp.{name}', 'id'),
                  (SELECT coalesce(max(id), 0) + {away} FROM {name}))
"""
SCHEMA = """
    SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = %s::regclass
"""


@contextmanager
def own_connection() -> Iterator[None]:
    """In this thread the default database is a connection of its own, not of the pool,
    and is closed at the end: what was made on it is gone then."""
    pooled = connections[DEFAULT_DB_ALIAS]
    own = deepcopy(pooled.settings_dict)
    own["OPTIONS"].pop("pool", None)
    connections[DEFAULT_DB_ALIAS] = load_backend(own["ENGINE"]).DatabaseWrapper(
        own, DEFAULT_DB_ALIAS
    )
    try:
        yield
    finally:
        connections[DEFAULT_DB_ALIAS].close()
        connections[DEFAULT_DB_ALIAS] = pooled


def set_stage(version: Version) -> None:
    """Copies of the tables, with nothing in them but this version, and of what is
    declared."""
    real = {
        model: f"{_schema(model)}.{model._meta.db_table}"
        for model in [*WRITTEN, *COPIED, *SEEN]
    }
    plans: list[type[models.Model]] = (
        [SystemEvent] if version.trigger_kind in PLANNED else []
    )
    with transaction.atomic():
        for model in [*WRITTEN, *COPIED, *plans]:
            execute(TABLE.format(name=model._meta.db_table, real=real[model]))
        for model in COPIED:
            name = model._meta.db_table
            execute(f"INSERT INTO {name} SELECT * FROM {real[model]}")  # noqa: S608
            fetch_all(NUMBERING.format(name=name, away=AWAY))
        for model in set(SEEN).difference(plans):
            execute(VIEW.format(name=model._meta.db_table, real=real[model]))
        for model, column, of in (
            (Campaign, "id", version.campaign_id),
            (Version, "id", version.pk),
            (Step, "version_id", version.pk),
        ):
            execute(
                f"INSERT INTO {model._meta.db_table} SELECT * FROM {real[model]} "  # noqa: S608
                f"WHERE {column} = %s",
                [of],
            )


def close_doors() -> None:
    """From here on nothing real can be written, and no more tables be made."""
    execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")


def turn_clock(now: datetime) -> None:
    """From now on it is then: later events have not occurred yet."""
    fetch_all(CLOCK, [now.isoformat()])


def tidy_stage() -> None:
    """Remove what was deleted, and let the planner see how large the tables are: nobody
    else does so for temporary ones. Queues would be read ever more slowly."""
    tables = ", ".join(f"pg_temp.{model._meta.db_table}" for model in WRITTEN)
    execute(f"VACUUM (ANALYZE) {tables}")


def _schema(model: type[models.Model]) -> str:
    return str(fetch_all(SCHEMA, [model._meta.db_table])[0][0])
