"""The account under which servers run when we are root, as PostgreSQL refuses to be.

A system user of its own, who may pass through the directories that lead to its data and
to its programs, and gets no other right.
"""

import os
import pwd
import stat
import struct
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from smartcomm.embedded.errors import EmbeddedError

NAME = "smartcomm-db"


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int


def server_account() -> Account | None:
    """Whom the servers run as, made if missing. None stands for ourselves."""
    if os.geteuid() != 0:
        return None
    for _ in range(10):
        with suppress(KeyError):
            entry = pwd.getpwnam(NAME)
            return Account(entry.pw_uid, entry.pw_gid)
        _add_user()
        time.sleep(0.1)
    raise EmbeddedError(
        f"PostgreSQL cannot run as root, and the system user {NAME} for it could not "
        "be made. Run this as another user, or set DATABASE_URL."
    )


def _add_user() -> None:
    # Another process may be adding it at this time; what counts is that it is there.
    with suppress(OSError, subprocess.CalledProcessError):
        command = "useradd --system --user-group --no-create-home --shell /bin/false"
        subprocess.run([*command.split(), NAME], check=True, capture_output=True)


def own_directory(directory: Path, account: Account | None) -> None:
    """Make a directory that only the servers' account (and root) can look into."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One look, not through links: a stranger may have been first with this name.
    status = directory.lstat()
    owner = account.uid if account else os.geteuid()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {owner, os.geteuid()}:
        raise EmbeddedError(
            f"{directory} belongs to another user. Start as that user, "
            "or set SMARTCOMM_DATA to a directory of your own."
        )
    if account and status.st_uid != owner:
        os.chown(directory, account.uid, account.gid)
    directory.chmod(0o700)


def open_passage(directory: Path, account: Account) -> None:
    """Let the account pass through everything above a directory.

    Root's home is closed to all others. Only this account is let through, and only
    through, by an access control list: modes would let everyone.
    """
    for parent in reversed(directory.parents):
        if not _may_pass(parent, account):
            _let_pass(parent, account)


def open_programs(directory: Path) -> None:
    """Make installed programs readable, where root's umask made them private."""
    if not directory.exists() or directory.stat().st_mode & stat.S_IXOTH:
        return
    for path in [directory, *directory.rglob("*")]:
        mode = path.stat().st_mode
        executable = path.is_dir() or mode & stat.S_IXUSR
        path.chmod(mode | (0o055 if executable else 0o044))


# The kernel's own form of an access control list (linux/posix_acl_xattr.h): a version,
# then entries of a kind, permissions, and an id that only named users and groups have.
ACL = "system.posix_acl_access"
VERSION = struct.pack("<I", 2)
ENTRY = struct.Struct("<HHI")
OWNER, NAMED_USER, OWNING_GROUP, MASK, OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
NO_ID = 0xFFFFFFFF
PASS = 0o1


def _may_pass(directory: Path, account: Account) -> bool:
    status = directory.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    return bool(status.st_mode & stat.S_IXOTH) or _is_named(directory, account)


def _is_named(directory: Path, account: Account) -> bool:
    entries = _entries(directory)
    # A later chmod leaves the entry, and takes from it through the mask.
    mask = entries.get((MASK, NO_ID), 0)
    return bool(entries.get((NAMED_USER, account.uid), 0) & mask & PASS)


def _let_pass(directory: Path, account: Account) -> None:
    entries = _entries(directory)
    mask = entries.get((MASK, NO_ID), entries[OWNING_GROUP, NO_ID])
    entries[MASK, NO_ID] = mask | PASS
    entries[NAMED_USER, account.uid] = PASS
    packed = [
        ENTRY.pack(kind, may, who) for (kind, who), may in sorted(entries.items())
    ]
    try:
        os.setxattr(directory, ACL, VERSION + b"".join(packed))
    except OSError as error:
        raise EmbeddedError(
            f"PostgreSQL cannot run as root, and its user {NAME} cannot pass through "
            f"{directory}. Run `chmod o+x {directory}`, start as another user, or set "
            "DATABASE_URL."
        ) from error


def _entries(directory: Path) -> dict[tuple[int, int], int]:
    """The directory's list, or the one its mode stands for."""
    try:
        packed = os.getxattr(directory, ACL).removeprefix(VERSION)
    except OSError:
        mode = directory.stat().st_mode
        return {
            (OWNER, NO_ID): mode >> 6 & 7,
            (OWNING_GROUP, NO_ID): mode >> 3 & 7,
            (OTHERS, NO_ID): mode & 7,
        }
    return {(kind, who): may for kind, may, who in ENTRY.iter_unpack(packed)}
