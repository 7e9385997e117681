"""What stands beside a rule being built: its sentence, how many and who.

At once an estimate; where there are few customers, or the rule was counted within the
last minute, the exact count. Else the page orders it a moment later and asks again and
again how far it is: see admin/previewing.py and counting.py.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from customers.models import Customer
from segments import counting, offers, preview, reach, rules
from segments.builder import Options, check, share_text
from segments.compile import MissingField, lookup
from segments.drafts import read
from segments.models import Count
from segments.preview import Preview
from smartcomm.core.errors import UserError

TOKEN_BYTES = 9


def live(data: Mapping[str, Any], *, user: str, now: datetime) -> dict[str, Any]:
    """What the preview shows for a form that was sent, for its template.

    A rule that is not finished is not counted: half of it would be another rule. What
    the page was waiting for before is let go.
    """
    prefix = data.get("prefix", "")
    options = Options.read(data, prefix)
    draft = read(data, prefix)
    token = data.get(f"{prefix}.opt.asker") or secrets.token_urlsafe(TOKEN_BYTES)
    shown: dict[str, Any] = {
        "look": data.get("look", ""),
        "prefix": prefix,
        "asker": token[:32],
        "is_empty": draft.is_empty,
    }
    rule, context, sentence = _rule(draft, prefix, options, data, shown)
    count = (
        counting.recent(rule, now=now, context=context) if rule is not None else None
    )
    counting.let_go(asker(user, token), except_for=count)
    shown["sentence"] = sentence
    if rule is None:
        return shown
    try:
        if count is not None and count.status == Count.Status.DONE:
            shown |= figures(counted(count))
        else:
            found = preview.preview(rule, exact=False, now=now, context=context)
            shown |= figures(found)
            if not found.exact:
                shown["order"] = order(rule, context, shown)
    except MissingField as missing:
        shown["missing"] = sorted(missing.codes)
    except UserError as error:
        shown["error"] = error.message
    if context is not None and shown.get("found"):
        shown["used"] = [(code, lookup(context, code)) for code in shown["needs"]]
    return shown


def _rule(
    draft: Any,
    prefix: str,
    options: Options,
    data: Mapping[str, Any],
    shown: dict[str, Any],
) -> tuple[rules.Rule | None, Mapping[str, Any] | None, str]:
    """(the rule if it can be counted, the values of an event for it, its sentence)."""
    if draft.is_empty or options.is_where:
        return None, None, ""
    checked = check(draft, prefix, options)
    if checked.rule is None:
        shown |= {
            "problems": checked.problems,
            "is_unfinished": checked.is_unfinished,
        }
        return None, None, ""
    sentence = preview.sentence_of(checked.rule)
    needed = rules.event_values(checked.rule)
    if not needed:
        return checked.rule, None, sentence
    shown["needs"] = sorted(needed)
    example = offers.newest_event(options.event_name(data, prefix))
    if example is None:
        return None, None, sentence
    shown["example"] = example
    return checked.rule, example.context, sentence


def asker(user: str, token: str) -> str:
    """Who waits for a count: one page of one person."""
    return f"{user}:{token[:32]}"


def order(
    rule: rules.Rule, context: Mapping[str, Any] | None, shown: Mapping[str, Any]
) -> str:
    """What the page sends to have the rule counted exactly, as JSON for htmx."""
    return json.dumps(
        {
            "scb_rule": json.dumps(rules.to_json(rule)),
            "scb_context": json.dumps(counting.needed(rule, context)),
            "scb_asker": shown["asker"],
            "scb_look": shown["look"],
        }
    )


def figures(found: Preview) -> dict[str, Any]:
    """The numbers and the customers, for the template."""
    number, margin = about(found.count, found.margin)
    return {
        "found": found,
        "number": number,
        "margin": margin,
        "customers": _customers(found.sample),
        "share": share_text(found.share),
        "percent": round(found.share * 100, 1),
        "seconds": f"{found.took_ms / 1000:.1f}",
        "reached": [
            (
                what,
                about(reached, found.margin)[0],
                share_text(min(1.0, reached / found.count)),
            )
            for what, reached in reach.in_words(found.reach)
            if found.count
        ],
    }


def about(number: int, margin: int) -> tuple[int, int]:
    """A number and its margin with no more digits than are known: 342,759 ± 11,530 is
    343,000 ± 12,000. The margin grows by what rounding may take away."""
    unit = int(10 ** (len(str(margin)) - 2)) if margin >= 100 else 1
    rounded = (number + unit // 2) // unit * unit
    return rounded, -(-(margin + abs(rounded - number)) // unit) * unit


def counted(count: Count) -> Preview:
    """A count that has ended, as the preview that it would have been."""
    return Preview(
        count=count.found,
        exact=count.margin is None,
        margin=count.margin or 0,
        sample=count.sample,
        base=count.base,
        reach=count.reach,
        sentence=preview.sentence_of(rules.parse(count.rule, event_values=True)),
        took_ms=count.took_ms or 0,
    )


def _customers(external_ids: list[str]) -> list[Customer]:
    found = Customer.objects.in_bulk(external_ids, field_name="external_id")
    return [found[one] for one in external_ids if one in found]
