"""Counting who meets a rule, all of them or a range: the one statement that does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from segments import reach, rules
from segments.compile import IdRange, Restrict, compile_rule
from segments.dictionary import Dictionary
from segments.reading import source
from segments.sql import Sql, join, sql
from smartcomm.core.db import fetch_all


@dataclass(frozen=True, slots=True)
class Tally:
    """What was found among the customers who were asked."""

    found: int
    #: How many were asked.
    base: int
    #: The highest ids of those found.
    ids: list[int]
    #: Channel → how many of those found may be written to.
    reach: dict[str, int] = field(default_factory=dict)


def tally(
    rule: rules.Rule,
    *,
    now: datetime,
    known: Dictionary,
    restrict: IdRange | None,
    show: int,
) -> Tally:
    """Count those who meet the rule. Call inside `read_only`."""
    members = compile_rule(rule, now=now, restrict=restrict, dictionary=known)
    channels = reach.queries(now=now, restrict=restrict)
    base = _base(restrict)
    columns = [
        sql("({})", base),
        Sql("(SELECT count(*) FROM members)"),
        sql("ARRAY(SELECT customer_id FROM members ORDER BY 1 DESC LIMIT {})", show),
        *(
            sql(
                "(SELECT count(*) FROM members JOIN ({}) AS reached "
                "USING (customer_id))",
                Sql(query.sql, query.params),
            )
            for query in channels.values()
        ),
    ]
    statement = sql(
        "WITH members AS MATERIALIZED ({}) SELECT {}",
        Sql(members.sql, members.params),
        join(", ", columns),
    )
    base_found, found, ids, *reached = fetch_all(
        statement.text, statement.params, using=source()
    )[0]
    return Tally(
        int(found), int(base_found), ids, dict(zip(channels, reached, strict=True))
    )


def external_ids(ids: Sequence[int]) -> list[str]:
    """What the customers are called outside, in the order given."""
    found = dict(
        fetch_all(
            "SELECT id, external_id FROM customers_customer "
            "WHERE id = ANY(%s::bigint[])",
            [list(ids)],
            using=source(),
        )
    )
    return [found[one] for one in ids if one in found]


def _base(restrict: Restrict) -> Sql:
    query = Sql("SELECT count(*) FROM customers_customer")
    if isinstance(restrict, IdRange):
        return sql(
            "{} WHERE id > {} AND id <= {}", query, restrict.after, restrict.upto
        )
    return query
