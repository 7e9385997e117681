"""Looking for processes that belong to a data directory."""

import os
import signal
import time
from pathlib import Path


def processes_of(directory: Path) -> dict[int, str]:
    """Everything that works in a data directory or names it: ids and command lines."""
    return {
        int(process.name): _read(process / "cmdline")
        for process in Path("/proc").glob("[0-9]*")
        if process.name != str(os.getpid()) and _belongs(process, str(directory))
    }


def kill(directory: Path, words: str) -> int:
    """Kill the one process with these words in its command line, and return its id."""
    (found,) = [pid for pid, line in processes_of(directory).items() if words in line]
    os.kill(found, signal.SIGKILL)
    return found


def wait_until_gone(directory: Path, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while left := processes_of(directory):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)


def _belongs(process: Path, directory: str) -> bool:
    return (
        _working_directory(process).startswith(directory)
        or directory in _read(process / "cmdline")
        or f"SMARTCOMM_DATA={directory}" in _read(process / "environ")
    )


def _read(path: Path) -> str:
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""  # It ended meanwhile, or is another user's.


def _working_directory(process: Path) -> str:
    try:
        return str((process / "cwd").readlink())
    except OSError:
        return ""
