"""Where the boxes and arrows of a drawing lie. Pure: numbers in, numbers out.

The drawing flows from top to bottom. Every step stands in a row below all steps
that lead to it; an arrow that passes a row keeps a lane free there, so that no
arrow runs through a box. Within a row, boxes stand as near to what they are
connected with as the others allow. Any drawing gets a picture, also one that is
not sound: what goes back, or leads to nothing, ends in a mark that says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from campaigns.graph import Ways, cycles

Kind = Literal["trigger", "step", "end", "back", "lane"]
#: What a way leads into: kind, step, and for marks the way.
Place = tuple[Kind, str, str]

TRIGGER: Place = ("trigger", "", "")


@dataclass(frozen=True)
class Measures:
    """How big things are, in pixels."""

    box: tuple[int, int] = (264, 108)
    mark: tuple[int, int] = (84, 26)
    #: What one way out needs at the lower edge of its box.
    way: int = 128
    #: Between the boxes of a row, and between two marks.
    apart: int = 28
    close: int = 16
    #: Between two rows.
    gap: int = 78
    #: How far an arrow goes straight down before it turns.
    stem: int = 40
    lane: int = 20
    margin: int = 16


READING = Measures()
REPORTING = Measures(box=(264, 136), way=164, gap=84)
EDITING = Measures(mark=(116, 34), gap=104, stem=70)


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture; `x` and `y` are its upper left corner."""

    kind: Kind
    step: str
    way: str
    x: int
    y: int
    width: int
    height: int
    #: False for a step that no way leads to.
    is_reached: bool = True


@dataclass(frozen=True)
class Arrow:
    """One way out of one step, or the way from the trigger (`source` and `way` empty).

    `label` is a point on its straight piece, for the name of the way; `plus` one
    below it, for the button that puts a step in between.
    """

    source: str
    way: str
    target: Place
    path: str
    label: tuple[int, int]
    plus: tuple[int, int]


@dataclass(frozen=True)
class Picture:
    width: int
    height: int
    boxes: list[Box]
    arrows: list[Arrow]


def draw(
    definition: dict[str, Any], *, ways: Ways, measures: Measures = READING
) -> Picture:
    """Lay out a drawing. The boxes come in the order in which one would read them."""
    drawing = _Drawing(definition, ways, measures)
    drawing.set_rows()
    drawing.keep_lanes()
    drawing.order_rows()
    drawing.place()
    return drawing.picture()


def ways_out(step: dict[str, Any], ways: Ways) -> tuple[str, ...]:
    """The ways out of a step: those of its action, then any it only claims to have."""
    claimed = tuple(step.get("next") or {})
    action = ways.get(step["action"])
    has = action(step.get("config") or {}) if action else ()
    return (*has, *(way for way in claimed if way not in has))


@dataclass
class _Node:
    place: Place
    width: int
    height: int
    row: int = 0
    #: The middle.
    x: float = 0.0
    above: list[_Wire] = field(default_factory=list)
    below: list[_Wire] = field(default_factory=list)


@dataclass
class _Wire:
    """A piece of an arrow between two neighbouring rows (first: between any two)."""

    upper: _Node
    lower: _Node
    way: str
    #: Where it leaves, from the middle of the upper box.
    port: float = 0.0


class _Drawing:
    def __init__(
        self, definition: dict[str, Any], ways: Ways, measures: Measures
    ) -> None:
        self.measures = measures
        steps = {step["key"]: step for step in definition.get("steps") or []}
        out = {key: ways_out(step, ways) for key, step in steps.items()}
        self.nodes: dict[Place, _Node] = {}
        self._add(TRIGGER, measures.box)
        for key in steps:
            width, height = measures.box
            wide = max(width, measures.way * len(out[key]))
            self._add(("step", key, ""), (wide, height))

        back = _back_arrows(steps, out)
        self.wires: list[_Wire] = []
        self._connect(TRIGGER, "", self._target("", "", definition.get("start"), steps))
        for key, step in steps.items():
            leads = step.get("next") or {}
            for number, way in enumerate(out[key]):
                target = self._target(key, way, leads.get(way), steps)
                if (key, leads.get(way)) in back:
                    target = ("back", key, way)
                self._connect(
                    ("step", key, ""), way, target, number=number, of=len(out[key])
                )

    def _add(self, place: Place, size: tuple[int, int]) -> _Node:
        return self.nodes.setdefault(place, _Node(place, *size))

    def _target(self, key: str, way: str, leads_to: Any, steps: Any) -> Place:
        return ("step", leads_to, "") if leads_to in steps else ("end", key, way)

    def _connect(
        self, source: Place, way: str, target: Place, *, number: int = 0, of: int = 1
    ) -> None:
        upper = self.nodes[source]
        lower = self._add(target, self.measures.mark)
        port = ((number + 0.5) / of - 0.5) * upper.width
        wire = _Wire(upper, lower, way, port)
        upper.below.append(wire)
        lower.above.append(wire)
        self.wires.append(wire)

    def set_rows(self) -> None:
        """Every node one row below the lowest of those that lead to it."""
        waits_for = {place: len(node.above) for place, node in self.nodes.items()}
        ready = [place for place, number in waits_for.items() if not number]
        for place in ready:
            node = self.nodes[place]
            if place != TRIGGER and not node.above:
                node.row = 1  # A step that no way leads to.
            for wire in node.below:
                lower = wire.lower
                lower.row = max(lower.row, node.row + 1)
                waits_for[lower.place] -= 1
                if not waits_for[lower.place]:
                    ready.append(lower.place)

    def keep_lanes(self) -> None:
        """Cut the arrows that pass rows into pieces from row to row."""
        for number, wire in enumerate(self.wires):
            lower, upper = wire.lower, wire.upper
            if lower.row - upper.row <= 1:
                continue
            lower.above.remove(wire)
            piece = wire
            for row in range(upper.row + 1, lower.row):
                place: Place = ("lane", str(number), str(row))
                lane = self._add(place, (self.measures.lane, 0))
                lane.row = row
                piece.lower = lane
                lane.above.append(piece)
                piece = _Wire(lane, lower, wire.way)
                lane.below.append(piece)
            piece.lower = lower
            lower.above.append(piece)

    def order_rows(self) -> None:
        """Who stands left of whom: as one walks the ways, then with fewer crossings."""
        rows: list[list[_Node]] = [
            [] for _ in range(1 + max(node.row for node in self.nodes.values()))
        ]
        seen: set[Place] = set()
        roots = [node for node in self.nodes.values() if not node.above]
        ahead = roots[::-1]
        while ahead:
            node = ahead.pop()
            if node.place not in seen:
                seen.add(node.place)
                rows[node.row].append(node)
                ahead += [wire.lower for wire in reversed(node.below)]
        self.rows = rows
        self._number()
        best, fewest = [list(row) for row in rows], self._crossings()
        for turn in range(6):
            if not fewest:
                break
            down = turn % 2 == 0
            for row in rows if down else rows[::-1]:
                row.sort(key=lambda node: self._pull(node, down=down))
                self._number()
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(row) for row in rows], crossings
        self.rows = best

    def _number(self) -> None:
        for row in self.rows:
            for number, node in enumerate(row):
                node.x = number

    def _pull(self, node: _Node, *, down: bool) -> float:
        if down:
            near = [_leaves_at(wire) for wire in node.above]
        else:
            near = [wire.lower.x for wire in node.below]
        return sum(near) / len(near) if near else node.x

    def _crossings(self) -> int:
        crossings = 0
        for row in self.rows:
            ends = sorted(
                (_leaves_at(wire), wire.lower.x) for node in row for wire in node.below
            )
            crossings += sum(
                1
                for number, (start, end) in enumerate(ends)
                for other_start, other_end in ends[number + 1 :]
                if start < other_start and end > other_end
            )
        return crossings

    def place(self) -> None:
        """Move everyone towards their neighbours above and below, in turns."""
        for row in self.rows:
            _settle(row, [0.0] * len(row), self.measures)
        for turn in range(24):
            rows = self.rows if turn % 2 == 0 else self.rows[::-1]
            for row in rows:
                wanted = []
                for node in row:
                    above = [wire.upper.x + wire.port for wire in node.above]
                    below = [wire.lower.x - wire.port for wire in node.below]
                    if turn < 16:
                        near = (above if turn % 2 == 0 else below) or above or below
                    else:
                        near = above + below
                    wanted.append(sum(near) / len(near) if near else node.x)
                _settle(row, wanted, self.measures)
        # What hangs alone on one way hangs straight.
        for row in self.rows:
            _settle(row, [_plumb(node) for node in row], self.measures)

    def picture(self) -> Picture:
        measures = self.measures
        nodes = self.nodes.values()
        left = min(node.x - node.width / 2 for node in nodes) - measures.margin
        right = max(node.x + node.width / 2 for node in nodes) + measures.margin
        tops, bottoms = [], []
        y = measures.margin
        for row in self.rows:
            tops.append(y)
            y += max(node.height for node in row)
            bottoms.append(y)
            y += measures.gap
        for node in nodes:
            node.x -= left
        boxes = [
            Box(
                *node.place,
                x=round(node.x - node.width / 2),
                y=tops[row],
                width=node.width,
                height=node.height,
                is_reached=node.place == TRIGGER or bool(node.above),
            )
            for row, standing in enumerate(self.rows)
            for node in standing
            if node.place[0] != "lane"
        ]
        arrows = [self._arrow(wire, tops, bottoms) for wire in self.wires]
        return Picture(
            round(right - left), bottoms[-1] + measures.margin, boxes, arrows
        )

    def _arrow(self, first: _Wire, tops: list[int], bottoms: list[int]) -> Arrow:
        measures, wire = self.measures, first
        x = wire.upper.x + wire.port
        y = tops[wire.upper.row] + wire.upper.height
        label = (round(x), y + 19)
        plus = (round(x), y + measures.stem - 18)
        path = [f"M{x:.1f} {y}"]
        straight = bottoms[wire.upper.row] + measures.stem
        while True:
            lower = wire.lower
            top = tops[lower.row]
            middle = (straight + top) / 2
            path.append(
                f"V{straight} C{x:.1f} {middle:.1f} {lower.x:.1f} {middle:.1f}"
                f" {lower.x:.1f} {top}"
            )
            if lower.place[0] != "lane":
                break
            x, straight = lower.x, bottoms[lower.row] + measures.stem
            (wire,) = lower.below
        return Arrow(
            source=first.upper.place[1],
            way=first.way,
            target=wire.lower.place,
            path=" ".join(path),
            label=label,
            plus=plus,
        )


def _leaves_at(wire: _Wire) -> float:
    """While rows are being ordered: a box is one wide, its ways stand inside it."""
    return wire.upper.x + wire.port / wire.upper.width


def _plumb(node: _Node) -> float:
    """Below the only way to it, if that is its box's only one; else where it is."""
    if len(node.above) == 1 and len(node.above[0].upper.below) == 1:
        return node.above[0].upper.x + node.above[0].port
    return node.x


def _back_arrows(
    steps: dict[str, Any], out: dict[str, tuple[str, ...]]
) -> set[tuple[str, str]]:
    """The arrows that close a circle."""
    to: dict[str, list[str]] = {}
    for key, step in steps.items():
        leads = step.get("next") or {}
        to[key] = [leads[way] for way in out[key] if leads.get(way) in steps]
    return {(path[-2], path[-1]) for path in cycles(to)}


def _settle(row: list[_Node], wanted: list[float], measures: Measures) -> None:
    """Put a row as near to the wanted places as its order and widths allow.

    The least squares answer: neighbours that would overlap move as one block,
    whose place is the mean of what its members want.
    """
    offsets, offset = [], 0.0
    for number, node in enumerate(row):
        if number:
            other = row[number - 1]
            both_marks = {node.place[0], other.place[0]} <= {"end", "back"}
            apart = measures.close if both_marks else measures.apart
            offset += (other.width + node.width) / 2 + apart
        offsets.append(offset)
    blocks: list[tuple[float, int]] = []  # mean, how many
    for place, shift in zip(wanted, offsets, strict=True):
        mean, size = place - shift, 1
        while blocks and blocks[-1][0] > mean:
            before, many = blocks.pop()
            mean = (before * many + mean * size) / (many + size)
            size += many
        blocks.append((mean, size))
    places = [mean for mean, size in blocks for _ in range(size)]
    for node, place, shift in zip(row, places, offsets, strict=True):
        node.x = place + shift
