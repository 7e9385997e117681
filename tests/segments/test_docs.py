"""What docs/segments.md shows works as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import timezone

from campaigns.models import Campaign
from customers.models import Attribute, MailingCategory
from segments import rules
from segments.compile import compile_rule, customers_matching
from segments.models import Segment
from segments.operators import OPERATORS, ValueType
from tests import make

TEXT = (Path(settings.BASE_DIR) / "docs/segments.md").read_text()
EXAMPLES = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
PERIODS = re.findall(r"^\| `(\{.*?\})` \|", TEXT, re.MULTILINE)
QUESTIONS = re.findall(r'^\| `("\w+": \{.*?\})` \|', TEXT, re.MULTILINE)


@pytest.mark.django_db
def test_every_example_is_a_rule_that_can_be_asked():
    for name in ("Product viewed", "Order paid", "Call received"):
        make.event_type(name)
    for name in ("shop", "app"):
        make.source(name)
    for code, type_ in (("tier", "string"), ("expires", "date"), ("interests", "list")):
        Attribute.objects.create(code=code, type=type_)
    MailingCategory.objects.create(code="news", name="News")
    Campaign.objects.create(pk=7, name="Hello")
    for pk in (12, 13):
        Segment.objects.create(pk=pk, name=str(pk), kind="static")
    asked = [json.loads(text) for text in EXAMPLES]
    asked += [
        {"event": "Order paid", "period": json.loads(text)}
        for text in PERIODS
        if "all" not in text and "any" not in text and "not" not in text
    ]
    asked += [
        {"event": "Order paid", **json.loads(f"{{{text}}}")} for text in QUESTIONS
    ]
    assert (len(EXAMPLES), len(QUESTIONS)) == (12, 5)

    for data in asked:
        rule = rules.parse(data, event_values=True)
        query = compile_rule(rule, now=timezone.now(), context={"product_id": 7})
        assert customers_matching(query) == set()


def test_the_table_of_operators_is_complete_and_right():
    types = [
        ValueType.STRING,
        ValueType.NUMBER,
        ValueType.BOOLEAN,
        ValueType.DATE,
        ValueType.LIST,
    ]
    found = {}
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[0].startswith("`"):
            for code in re.findall(r"`(.+?)`", cells[0]):
                ticks = zip(types, cells[1:6], strict=True)
                found[code] = {type_ for type_, tick in ticks if tick == "✓"}

    assert found == {code: op.types for code, op in OPERATORS.items()}
