"""All the demo data, once."""

from __future__ import annotations

from datetime import datetime

from segments.upkeep import keeper
from smartcomm.site.demo.load import (
    demo_source,
    is_loaded,
    load_journey,
    mark_loaded,
)
from smartcomm.site.demo.progress import Progress
from smartcomm.site.demo.showcase import make_showcase


def load_demo(*, size: str, now: datetime, progress: Progress) -> bool:
    """Load what is missing of the demo data; False if nothing was.

    May be killed at any point: the next call goes on. Costs two small queries when
    everything is there.
    """
    source = demo_source()
    if is_loaded(source, size=size):
        return False
    loaded = load_journey(size=size, now=now, progress=progress)
    progress.say(str(loaded))
    make_showcase(source, now=now)
    mark_loaded(source, size=size, loaded=loaded)
    # A worker would do it within seconds; the first look should find the members.
    keeper.keep_all()
    return True
