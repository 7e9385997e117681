"""Child processes that cannot outlive their parent."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from smartcomm.embedded.account import Account

PR_SET_PDEATHSIG = 1

SERVERS = {"postgres", "valkey-server"}

# Loaded here, because nothing should be loaded between fork and exec.
_libc = ctypes.CDLL(None)


def die_with_parent(parent: int, last_signal: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent is gone."""
    _libc.prctl(PR_SET_PDEATHSIG, int(last_signal))
    if os.getppid() != parent:
        os.kill(os.getpid(), last_signal)


def spawn(
    command: Sequence[str],
    *,
    directory: Path,
    output: IO[bytes],
    last_signal: signal.Signals = signal.SIGKILL,
    environment: Mapping[str, str] | None = None,
    account: Account | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child that gets `last_signal` when this process ends, even by kill -9.

    It is in a process group of its own, so that Ctrl-C reaches only the parent, which
    stops its children in the right order. Call from the main thread: the kernel takes
    the end of the calling thread for the end of the parent.
    """
    parent = os.getpid()
    return subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        process_group=0,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        umask=0o077 if account else -1,
        # Runs after the change of account, which would undo it.
        preexec_fn=lambda: die_with_parent(parent, last_signal),
    )


def stop(
    process: subprocess.Popen[bytes], signals: Sequence[tuple[signal.Signals, float]]
) -> None:
    """Send each signal in turn, waiting its seconds for the end; at last, kill."""
    for number, patience in signals:
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return
    process.kill()
    process.wait()


def end_leftovers(home: Path, polite: signal.Signals) -> None:
    """End the server that a killed keeper left at work in this directory.

    It is found by where it works, so that nothing else can be hit; a process id noted
    in a file may be another's by now.
    """
    for number in (polite, signal.SIGKILL):
        for pid in _servers_in(home):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if have_ended(home, patience=5):
            return


def have_ended(home: Path, *, patience: float) -> bool:
    """Wait for all servers at work in this directory to end, or for our patience."""
    deadline = time.monotonic() + patience
    while _servers_in(home):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _servers_in(home: Path) -> list[int]:
    return [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if _link(process / "cwd") == str(home)
        # A person's shell may stand there too. The program may have been replaced.
        and Path(_link(process / "exe").removesuffix(" (deleted)")).name in SERVERS
    ]


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""  # It ended meanwhile, or is another user's.
