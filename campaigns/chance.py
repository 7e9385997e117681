"""Whether a difference between two groups may be chance. Pure: numbers in, numbers out.

The interval of a difference of two proportions is Newcombe's hybrid score interval,
made of the Wilson intervals of both: R. G. Newcombe, “Interval estimation for the
difference between independent proportions: comparison of eleven methods”, Statistics in
Medicine 17 (1998) 873-890, method 10. It holds for small groups and rare events too,
and never leaves -100 to 100 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

#: How sure an interval is, for all comparisons of a step together.
CONFIDENCE = 0.95

MAY_BE_CHANCE = "may_be_chance"
HARDLY_CHANCE = "hardly_chance"
TOO_EARLY = "too_early"


@dataclass(frozen=True, slots=True)
class Proportion:
    """So many of so many."""

    reached: int
    of: int

    @property
    def rate(self) -> float | None:
        return self.reached / self.of if self.of else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far a group is ahead of another one; all None where a group is empty."""

    difference: float | None
    low: float | None
    high: float | None
    #: The difference in parts of the other's rate; None where that is 0.
    uplift: float | None
    verdict: str


def compare(group: Proportion, base: Proportion, *, comparisons: int = 1) -> Comparison:
    """The group against the base, one of so many comparisons with the same base.

    With more of them each has to be surer (Bonferroni): of six groups that are all
    alike, one would look better than the first by chance too often.
    """
    if not group.of or not base.of:
        return Comparison(None, None, None, None, TOO_EARLY)
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / comparisons / 2)
    rate, base_rate = group.reached / group.of, base.reached / base.of
    difference = rate - base_rate
    low, high = wilson(group, z=z)
    base_low, base_high = wilson(base, z=z)
    lowest = difference - sqrt((rate - low) ** 2 + (base_high - base_rate) ** 2)
    highest = difference + sqrt((high - rate) ** 2 + (base_rate - base_low) ** 2)
    # Rounding may carry a bound a hair past the possible.
    lowest, highest = max(-1.0, lowest), min(1.0, highest)
    is_clear = lowest > 0 or highest < 0
    return Comparison(
        difference,
        lowest,
        highest,
        difference / base_rate if base_rate else None,
        HARDLY_CHANCE if is_clear else MAY_BE_CHANCE,
    )


def wilson(part: Proportion, *, z: float) -> tuple[float, float]:
    """The interval in which the true rate lies, by E. B. Wilson (1927)."""
    rate, of = part.reached / part.of, part.of
    middle = rate + z * z / (2 * of)
    margin = z * sqrt(rate * (1 - rate) / of + z * z / (4 * of * of))
    scale = 1 + z * z / of
    return max(0.0, (middle - margin) / scale), min(1.0, (middle + margin) / scale)
