"""What a segment said before: a version for every change, and what changed in words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.db.models import Max

from segments import offers, outside, rules
from segments.describe import describe
from segments.models import Segment, SegmentVersion
from smartcomm.core.errors import NotFound, UserError

GROUPS = {
    "all": "All of these hold:",
    "any": "At least one of these holds:",
    "none": "None of these holds:",
    "not all": "Not all of these hold:",
}


def current_number(segment: Segment) -> int:
    """The number of the newest version; 0 for a segment that was never kept."""
    found = segment.versions.aggregate(newest=Max("number"))["newest"]
    return int(found or 0)


def keep(segment: Segment, *, author: str, now: datetime) -> SegmentVersion:
    """Keep the segment as it is now. Call with its row locked, or just made."""
    return SegmentVersion.objects.create(
        segment=segment,
        number=current_number(segment) + 1,
        name=segment.name,
        description=segment.description,
        rule=segment.rule,
        author=author[:150],
        created_at=now,
    )


def version_of(segment: Segment, number: int) -> SegmentVersion:
    found = segment.versions.filter(number=number).first()
    if found is None:
        raise NotFound(f"The segment “{segment}” has no version {number}.")
    return found


# What changed, in words


class Kind(StrEnum):
    SAME = "same"
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Piece:
    """Some words of a line; marked if the other side has others there."""

    text: str
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One condition, or the head of a group, as it was and as it is."""

    kind: Kind
    before: str = ""
    after: str = ""
    #: How deep it stands in groups.
    depth: int = 0
    #: The head of a group, which says how its conditions are taken together.
    is_head: bool = False

    @property
    def before_pieces(self) -> list[Piece]:
        return list(pieces(self.before, self.after))

    @property
    def after_pieces(self) -> list[Piece]:
        return list(pieces(self.after, self.before))


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed from one version to another."""

    #: Of name, description and rule, those that differ: (before, after).
    name: tuple[str, str] | None = None
    description: tuple[str, str] | None = None
    lines: list[Line] = field(default_factory=list)
    #: The same conditions, put in another order.
    is_reordered: bool = False

    @property
    def changes(self) -> list[Line]:
        return [line for line in self.lines if line.kind != Kind.SAME]

    @property
    def summary(self) -> str:
        """A few words: “name, 1 condition added, 2 changed”."""
        words = []
        if self.name:
            words.append("name")
        if self.description:
            words.append("description")
        leaves = [line for line in self.lines if not line.is_head]
        counted = [
            (sum(line.kind == kind for line in leaves), kind)
            for kind in (Kind.ADDED, Kind.REMOVED, Kind.CHANGED)
        ]
        told = [(number, kind) for number, kind in counted if number]
        for place, (number, kind) in enumerate(told):
            noun = "condition" if number == 1 else "conditions"
            words.append(f"{number} {f'{noun} ' if place == 0 else ''}{kind}")
        if any(line.is_head and line.kind == Kind.CHANGED for line in self.lines):
            words.append("how conditions are taken together")
        if self.is_reordered:
            words.append("order of conditions")
        return ", ".join(words)


class Words:
    """Conditions in words, with labels and names looked up once."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {
            "attributes": offers.attribute_labels(),
            "segments": offers.segment_names(),
            "campaigns": outside.campaign_names(),
            "categories": offers.category_names(),
        }

    def __call__(self, rule: rules.Rule) -> str:
        return describe(rule, **self.names)


@dataclass(frozen=True, slots=True)
class Saved:
    """What a version holds; anything that may be compared with one."""

    name: str
    description: str
    rule: Any

    @classmethod
    def of(cls, one: Segment | SegmentVersion) -> Saved:
        return cls(one.name, one.description, one.rule)


def difference(before: Saved, after: Saved, words: Words) -> Difference:
    """What changed, condition by condition, whatever their order."""
    lines: list[Line] = []
    if before.rule is not None or after.rule is not None:
        lines = _compare(_read(before.rule, words), _read(after.rule, words))
    return Difference(
        (before.name, after.name) if before.name != after.name else None,
        (before.description, after.description)
        if before.description != after.description
        else None,
        lines,
        before.rule != after.rule and all(line.kind == Kind.SAME for line in lines),
    )


@dataclass(frozen=True, slots=True)
class _Node:
    """A condition or a group, in words."""

    words: str
    #: What a condition is about: two about the same are one that changed.
    about: tuple[str, ...] = ()
    parts: tuple[_Node, ...] | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for what says the same, whatever the order in a group."""
        if self.parts is None:
            return (self.words,)
        return (self.words, *sorted((part.key for part in self.parts), key=repr))

    def leaves(self) -> Iterator[str]:
        if self.parts is None:
            yield self.words
        for part in self.parts or ():
            yield from part.leaves()


def _read(data: Any, words: Words) -> _Node:
    try:
        node = _node(rules.parse(data), words)
    except UserError as error:
        node = _Node(f"This rule is not understood: {error.message}")
    # A single condition reads like a group of one.
    return node if node.parts is not None else _Node(GROUPS["all"], parts=(node,))


def _node(rule: rules.Rule, words: Words) -> _Node:
    match rule:
        case rules.All(parts):
            return _group("all", parts, words)
        case rules.AnyOf(parts):
            return _group("any", parts, words)
        case rules.Not(rules.AnyOf(parts)):
            return _group("none", parts, words)
        case rules.Not(rules.All(parts)):
            return _group("not all", parts, words)
        case rules.Not(part):
            return _Node(words(rule), _about(part))
    return _Node(words(rule), _about(rule))


def _group(kind: str, parts: Sequence[rules.Rule], words: Words) -> _Node:
    return _Node(GROUPS[kind], parts=tuple(_node(part, words) for part in parts))


def _about(rule: rules.Rule) -> tuple[str, ...]:
    match rule:
        case rules.Attribute(name):
            return ("attribute", name)
        case rules.Happened(event):
            return ("event", event)
        case rules.Messaged(stage):
            return ("message", stage)
        case rules.ConsentIs(channel):
            return ("consent", channel)
        case rules.Reachable(channel):
            return ("reachable", channel)
        case rules.InSegment():
            return ("segment",)
    return (type(rule).__name__,)


def _compare(before: _Node, after: _Node, depth: int = 0) -> list[Line]:
    """The lines of two groups beside each other, in the order of the newer one."""
    kind = Kind.SAME if before.words == after.words else Kind.CHANGED
    lines = [Line(kind, before.words, after.words, depth, is_head=True)]
    old, new = list(before.parts or ()), list(after.parts or ())
    partner = _partners(old, new)
    left = [i for i in range(len(old)) if i not in partner.values()]
    for place, node in enumerate(new):
        at = partner.get(place)
        # What is gone stands where it stood: before what came after it.
        while left and at is not None and left[0] < at:
            lines += _whole(old[left.pop(0)], Kind.REMOVED, depth + 1)
        if at is None:
            lines += _whole(node, Kind.ADDED, depth + 1)
        elif node.parts is not None:
            lines += _compare(old[at], node, depth + 1)
        else:
            kind = Kind.SAME if old[at].words == node.words else Kind.CHANGED
            lines.append(Line(kind, old[at].words, node.words, depth + 1))
    for at in left:
        lines += _whole(old[at], Kind.REMOVED, depth + 1)
    return lines


def _partners(old: list[_Node], new: list[_Node]) -> dict[int, int]:
    """Place in the new list → place in the old one, for what was there before."""
    found: dict[int, int] = {}

    def pair(fits: Callable[[_Node, _Node], bool]) -> None:
        for place, node in enumerate(new):
            if place in found:
                continue
            for at, other in enumerate(old):
                if at not in found.values() and fits(other, node):
                    found[place] = at
                    break

    pair(lambda one, other: one.key == other.key)
    pair(lambda one, other: one.parts is None and _same_about(one, other))
    # Groups: those that share a condition, then whichever are left.
    pair(lambda one, other: _are_groups(one, other) and _share(one, other))
    pair(lambda one, other: _are_groups(one, other) and one.words == other.words)
    return found


def _same_about(one: _Node, other: _Node) -> bool:
    return other.parts is None and bool(one.about) and one.about == other.about


def _are_groups(one: _Node, other: _Node) -> bool:
    return one.parts is not None and other.parts is not None


def _share(one: _Node, other: _Node) -> bool:
    return not set(one.leaves()).isdisjoint(other.leaves())


def _whole(node: _Node, kind: Kind, depth: int) -> list[Line]:
    text = {"before": node.words} if kind == Kind.REMOVED else {"after": node.words}
    lines = [Line(kind, depth=depth, is_head=node.parts is not None, **text)]
    for part in node.parts or ():
        lines += _whole(part, kind, depth + 1)
    return lines


#: Longer texts are compared line by line: word by word would take too long.
MOST_BY_WORD = 4_000


def pieces(text: str, other: str) -> Iterator[Piece]:
    """The text in pieces, those marked that the other one does not have."""
    if not other or text == other:
        yield Piece(text)
        return
    is_long = max(len(text), len(other)) > MOST_BY_WORD
    token = r"[^\n]*\n|[^\n]+" if is_long else r"\s+|[^\s]+"
    here, there = re.findall(token, text), re.findall(token, other)
    shorter = min(len(here), len(there))
    first = next((i for i in range(shorter) if here[i] != there[i]), shorter)
    last = next(
        (i for i in range(shorter - first) if here[-1 - i] != there[-1 - i]),
        shorter - first,
    )
    if first:
        yield Piece("".join(here[:first]))
    here_end, there_end = len(here) - last, len(there) - last
    matcher = difflib.SequenceMatcher(
        None, there[first:there_end], here[first:here_end], autojunk=is_long
    )
    for tag, _, _, start, end in matcher.get_opcodes():
        if piece := "".join(here[first + start : first + end]):
            yield Piece(piece, tag != "equal")
    if last:
        yield Piece("".join(here[here_end:]))
