"""How much memory there is, for us and not for the whole machine."""

import os
from pathlib import Path

MIB = 1024 * 1024

# Where version 2 and version 1 of control groups tell a container's limit.
CONTAINER_LIMITS = [
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
]


def memory_mib() -> int:
    """The machine's memory, or the container's if that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_container_limits()]) // MIB


def _container_limits() -> list[int]:
    found = [path.read_text().strip() for path in CONTAINER_LIMITS if path.exists()]
    return [int(limit) for limit in found if limit.isdigit()]
