"""Filter customers by a rule, and ask an earlier filter again."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from django import forms

from campaigns.actions.base import (
    Action,
    Config,
    ConfigInvalid,
    Go,
    Outcome,
    Started,
    only,
)
from campaigns.actions.checks import Draft, error
from campaigns.actions.values import lacking
from campaigns.graph import Problem
from campaigns.models import Step
from segments import rules
from segments.builder import RuleField
from segments.compile import compile_rule, lookup
from segments.describe import describe
from segments.dictionary import Dictionary
from segments.rules import RuleError
from segments.sql import Sql, join, sql
from segments.usage import refuse_archived, segments_in
from smartcomm.core.db import batches, fetch_all
from smartcomm.core.errors import UserError

POSITIVE, NEGATIVE = "positive", "negative"

#: So many different contexts are asked about in one statement.
CONTEXTS_AT_ONCE = 50


class FilterForm(forms.Form):
    rule = RuleField(label="Who goes on by “Yes”", allow_event_values=True)


class FilterCustomers(Action):
    name = "filter_customers"
    noun = "filter"
    is_idle = True
    label = "Filter customers"
    symbol = "filter_alt"
    hint = "Part those who meet a rule from those who do not."
    way_labels = {POSITIVE: "Yes", NEGATIVE: "No"}
    form = FilterForm

    def clean(self, config: Config) -> Config:
        only(config, {"rule"})
        if "rule" not in config:
            raise ConfigInvalid("A filter needs a “rule”.", field="rule")
        return {"rule": rules.to_json(read_rule(config))}

    def describe(self, config: Config) -> str:
        return describe(read_rule(config))

    def event_codes(self, config: Config) -> set[str]:
        return rules.event_values(read_rule(config))

    def segments(self, config: Config) -> set[int]:
        return segments_in(config["rule"])

    def check(self, step: Step, draft: Draft) -> Iterator[Problem]:
        try:
            rule = read_rule(step.config)
            Dictionary.of(rule, to_come=draft.to_come)
            refuse_archived(rule)
        except UserError as wrong:
            yield error(step, f"In “{step.key}”: {wrong.message}")
        yield from super().check(step, draft)

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        return filter_runs(read_rule(step.config), runs, now=now)


class RefreshForm(forms.Form):
    filter = forms.SlugField(
        label="Filter to ask again",
        help_text="The key of a filter that comes earlier in this campaign.",
    )


class RefreshFilter(Action):
    name = "refresh_filter"
    label = "Refresh filter"
    is_idle = True
    symbol = "sync"
    hint = "Ask an earlier filter again, with the same event."
    way_labels = {POSITIVE: "Yes", NEGATIVE: "No"}
    form = RefreshForm

    def clean(self, config: Config) -> Config:
        only(config, {"filter"})
        if not isinstance(config.get("filter"), str) or not config["filter"]:
            raise ConfigInvalid(
                "“filter” is the key of a filter that comes earlier.", field="filter"
            )
        return {"filter": config["filter"]}

    def describe(self, config: Config) -> str:
        return f"Ask “{config.get('filter')}” again"

    def check(self, step: Step, draft: Draft) -> Iterator[Problem]:
        asked = step.config["filter"]
        if asked not in draft.keys(FilterCustomers.name):
            yield error(
                step,
                f"“{step.key}” asks the filter “{asked}” again, and there is none. "
                "Choose a filter of this campaign.",
            )
        elif step.key not in draft.after(asked):
            yield error(
                step,
                f"“{step.key}” asks “{asked}” again, which does not come before it. "
                "Choose an earlier filter.",
            )
        yield from super().check(step, draft)

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        asked = Step.objects.get(version_id=step.version_id, key=step.config["filter"])
        return filter_runs(read_rule(asked.config), runs, now=now)


def read_rule(config: Config) -> rules.Rule:
    """The rule of a filter's configuration. Raises RuleError with the place in it."""
    try:
        return rules.parse(config["rule"], event_values=True)
    except RuleError as error:
        place = f"rule.{error.field}" if error.field else "rule"
        raise RuleError(error.message, field=place) from error


def filter_runs(
    rule: rules.Rule, runs: Sequence[Started], *, now: datetime
) -> dict[int, Outcome]:
    """Which way each run goes.

    Runs whose events agree in the fields that the rule asks for are asked about
    together; the questions go to the database in one statement for every fifty.
    """
    outcomes: dict[int, Outcome] = {}
    groups: dict[str, list[Started]] = defaultdict(list)
    codes = sorted(rules.event_values(rule))
    for started in runs:
        values = {code: lookup(started.context, code) for code in codes}
        if missing := [code for code, value in values.items() if value is None]:
            outcomes[started.run.pk] = Go(NEGATIVE, missing_reason(missing))
        else:
            groups[json.dumps(values, sort_keys=True)].append(started)
    dictionary = Dictionary.of(rule) if groups else None
    for some in batches(groups.values(), CONTEXTS_AT_ONCE):
        for group, members in zip(
            some, _members(rule, some, now=now, dictionary=dictionary), strict=True
        ):
            for started in group:
                found = started.run.customer_id in members
                outcomes[started.run.pk] = Go(POSITIVE if found else NEGATIVE)
    return outcomes


def missing_reason(codes: Sequence[str]) -> str:
    """Why a filter that asks for fields the event does not have matches nobody."""
    return f"{lacking(codes).removesuffix('.')}, so the filter matches nobody."


def _members(
    rule: rules.Rule, groups: Sequence[Sequence[Started]], **how: Any
) -> list[set[int]]:
    """The customers of each group who meet the rule. One statement.

    The contexts have every field that the rule asks for.
    """
    queries = []
    for number, group in enumerate(groups):
        customers = sorted({started.run.customer_id for started in group})
        query = compile_rule(rule, context=group[0].context, restrict=customers, **how)
        queries.append(
            sql(
                "SELECT {}::int, customer_id FROM ({}) AS members",
                number,
                Sql(query.sql, tuple(query.params)),
            )
        )
    members: list[set[int]] = [set() for _ in groups]
    union = join(" UNION ALL ", queries)
    for number, customer_id in fetch_all(union.text, union.params):
        members[number].add(customer_id)
    return members
