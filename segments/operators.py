"""The comparisons a rule may make: one line each.

A line holds the word in the JSON, the words in a sentence, what the value must
look like, and the types of fields it fits. The SQL of each family of comparisons
stands in compile.py, once for columns and once for JSON.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ValueType(enum.StrEnum):
    """What a field or an attribute holds."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    LIST = "list"


class Takes(enum.Enum):
    """What the value beside an operator looks like."""

    NOTHING = "nothing"
    ONE = "one value"
    LIST = "a list of values"
    ORDERED = "a number or a date"
    PAIR = "two numbers or two dates, the low one first"
    TEXT = "a text"
    TIME = "a date, or a time with its offset"
    DAY = "a date"
    DAYS = "a whole number of days"


class Family(enum.Enum):
    """Comparisons that compile alike."""

    EQUAL = "equal"
    TEXT = "text"
    ORDER = "order"
    AGE = "age"
    ANNIVERSARY = "anniversary"
    LIST = "list"
    SET = "set"


@dataclass(frozen=True, slots=True)
class Operator:
    """One comparison. `negates` names the operator it is exactly the opposite of."""

    code: str
    words: str
    takes: Takes
    family: Family
    types: frozenset[ValueType]
    negates: str = ""


_S, _N, _B, _D, _L = ValueType
_SINGLE = frozenset({_S, _N, _B, _D})
_ALL = frozenset(ValueType)

OPERATORS: dict[str, Operator] = {
    operator.code: operator
    for operator in [
        Operator("=", "is", Takes.ONE, Family.EQUAL, _SINGLE),
        Operator("!=", "is not", Takes.ONE, Family.EQUAL, _SINGLE, negates="="),
        Operator("in", "is one of", Takes.LIST, Family.EQUAL, _SINGLE),
        Operator(
            "not in", "is none of", Takes.LIST, Family.EQUAL, _SINGLE, negates="in"
        ),
        Operator("contains", "contains", Takes.TEXT, Family.TEXT, frozenset({_S})),
        Operator(
            "starts with", "starts with", Takes.TEXT, Family.TEXT, frozenset({_S})
        ),
        Operator(">", "is more than", Takes.ORDERED, Family.ORDER, frozenset({_N, _D})),
        Operator(">=", "is at least", Takes.ORDERED, Family.ORDER, frozenset({_N, _D})),
        Operator("<", "is less than", Takes.ORDERED, Family.ORDER, frozenset({_N, _D})),
        Operator("<=", "is at most", Takes.ORDERED, Family.ORDER, frozenset({_N, _D})),
        Operator(
            "between", "is between", Takes.PAIR, Family.ORDER, frozenset({_N, _D})
        ),
        Operator("before", "is before", Takes.TIME, Family.ORDER, frozenset({_D})),
        Operator("after", "is after", Takes.TIME, Family.ORDER, frozenset({_D})),
        Operator("on", "is on", Takes.DAY, Family.ORDER, frozenset({_D})),
        Operator(
            "days ago >=",
            "was at least (days ago)",
            Takes.DAYS,
            Family.AGE,
            frozenset({_D}),
        ),
        Operator(
            "days ago <=",
            "was at most (days ago)",
            Takes.DAYS,
            Family.AGE,
            frozenset({_D}),
        ),
        Operator(
            "days ahead >=",
            "is at least (days ahead)",
            Takes.DAYS,
            Family.AGE,
            frozenset({_D}),
        ),
        Operator(
            "days ahead <=",
            "is at most (days ahead)",
            Takes.DAYS,
            Family.AGE,
            frozenset({_D}),
        ),
        Operator(
            "anniversary within",
            "has its anniversary within (days)",
            Takes.DAYS,
            Family.ANNIVERSARY,
            frozenset({_D}),
        ),
        Operator("includes", "includes", Takes.ONE, Family.LIST, frozenset({_L})),
        Operator(
            "includes any of",
            "includes any of",
            Takes.LIST,
            Family.LIST,
            frozenset({_L}),
        ),
        Operator(
            "includes all of",
            "includes all of",
            Takes.LIST,
            Family.LIST,
            frozenset({_L}),
        ),
        Operator(
            "includes none of",
            "includes none of",
            Takes.LIST,
            Family.LIST,
            frozenset({_L}),
            negates="includes any of",
        ),
        Operator("is set", "is set", Takes.NOTHING, Family.SET, _ALL),
        Operator(
            "is not set",
            "is not set",
            Takes.NOTHING,
            Family.SET,
            _ALL,
            negates="is set",
        ),
    ]
}

#: What may be asked of the number of events, and of the days since the last or first.
NUMBER_QUESTIONS = {
    ">=": "at least",
    "<=": "at most",
    "=": "exactly",
    "between": "between",
}
#: What may be asked of the date of the last or the first event.
DATE_QUESTIONS = {
    "before": "before",
    "after": "after",
    "on": "on",
    "between": "between",
}
