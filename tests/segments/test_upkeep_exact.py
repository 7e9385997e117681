"""Members that are kept bit by bit are those that a count of all finds."""

from __future__ import annotations

import os

import pytest

from segments.models import Membership, Segment
from segments.upkeep import keeper, recount, recount_wanted
from tests.segments.churn import BEGIN, World

pytestmark = pytest.mark.django_db

#: The whole proof: UPKEEP_EVENTS=200000, half an hour, `-s` to see it.
EVENTS = int(os.environ.get("UPKEEP_EVENTS", "800"))
SEED = int(os.environ.get("UPKEEP_SEED", "7"))
#: With many events everybody is compared this rarely, and in the end.
COMPARE_EVERY = max(1, EVENTS // 20_000)


def test_whatever_happens_the_members_are_those_of_a_count_of_all(monkeypatch):
    # Counts of all take several rounds, and something happens in between.
    customers = max(100, EVENTS // 100)
    monkeypatch.setattr(recount, "RANGE", customers // 10)
    world = World(seed=SEED, customers=customers)
    keeper.keep_all(now=world.now)
    assert world.differences() == {}
    moved = steps = compared = 0
    while world.events < EVENTS:
        world.step(most=min(max(50, EVENTS // 30), 1_000))
        steps += 1
        if world.random.random() < 0.3:
            # The keeper is late, or amid its work.
            some = world.random.sample(sorted(world.segments), 3)
            for name in some:
                recount_wanted(world.segments[name])
            for _ in range(world.random.randint(0, 9)):
                keeper.keep(now=world.now)
            continue
        before = since_when()
        keeper.keep_all(now=world.now)
        moved += len(before ^ since_when())
        if steps % COMPARE_EVERY == 0:
            assert world.differences() == {}, (steps, world.now)
            compared += 1
    keeper.keep_all(now=world.now)
    assert world.differences() == {}
    assert moved > EVENTS / 20, "nothing much happened"
    assert not Segment.objects.exclude(status="fresh").exists()
    assert not Segment.objects.filter(repaired__gt=0).exists(), "a check was needed"
    print(  # noqa: T201
        f"\n{world.events:,} events in {steps} steps from {BEGIN:%d %b %Y} to "
        f"{world.now:%d %b %Y}; {len(world.segments)} segments; {moved:,} times a "
        f"member came or went; {compared} times compared with a count of all, equal.",
        world.done,
    )


def since_when() -> set[tuple[int, int]]:
    return set(Membership.objects.values_list("segment", "customer"))
