"""Where things are. Everything here follows from the environment and starts nothing."""

import hashlib
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from smartcomm.embedded.errors import EmbeddedError

PROJECT = Path(__file__).resolve().parents[2]

# The name of the database and of the role that owns it.
DATABASE = "smartcomm"

# A socket's address has room for 108 bytes, file name and closing zero included.
LONGEST_SOCKET_PATH = 107
LONGEST_SOCKET_NAME = ".s.PGSQL.5432"


def data_directory() -> Path:
    """Where this installation keeps its data. Not necessarily there yet."""
    configured = os.environ.get("SMARTCOMM_DATA")
    return Path(configured).expanduser().resolve() if configured else PROJECT / ".data"


def prepare_data_directory() -> Path:
    """The data directory, made if missing, or a sentence why it cannot be used."""
    directory = data_directory()
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True)
            # Root's servers run under another account, which has to pass through.
            directory.chmod(0o711 if os.geteuid() == 0 else 0o700)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise EmbeddedError(
            f"The data directory {directory} cannot be written ({error.strerror}). "
            "Set SMARTCOMM_DATA to one that can."
        ) from error
    return directory


def socket_directory() -> Path:
    """Where the servers listen.

    In the data directory, unless its path is too long for a socket's address. Sockets
    need no free port and no password: the directory's mode says who may connect.
    """
    directory = data_directory() / "sockets"
    if len(os.fsencode(directory / LONGEST_SOCKET_NAME)) <= LONGEST_SOCKET_PATH:
        return directory
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    # Fixed, because $TMPDIR differs between the sessions of one person. Who made the
    # directory is checked before a server listens in it.
    return Path("/tmp") / f"smartcomm-{digest}"  # noqa: S108


def database_url() -> str:
    """The address of the database: DATABASE_URL, or the embedded server's."""
    host = quote(str(socket_directory()), safe="")
    return (
        os.environ.get("DATABASE_URL") or f"postgresql://{DATABASE}@{host}/{DATABASE}"
    )


def redis_url() -> str:
    """The address of Valkey or Redis: REDIS_URL, or the embedded server's."""
    return os.environ.get("REDIS_URL") or f"unix://{quote(str(valkey_socket()))}"


def broker_url() -> str:
    """The same address, as Celery writes it."""
    return redis_url().replace("unix://", "redis+socket://", 1)


def valkey_socket() -> Path:
    return socket_directory() / "valkey"


def secret_key() -> str:
    """The installation's own secret, made on first need and kept in its data."""
    path = data_directory() / "secret_key"
    if not path.exists():
        _make_secret(path)
    return path.read_text()


def _make_secret(path: Path) -> None:
    directory = prepare_data_directory()
    with tempfile.NamedTemporaryFile("w", dir=directory) as draft:
        draft.write(secrets.token_urlsafe(50))
        draft.flush()
        # A link appears with its whole content, and the first of two wins.
        with suppress(FileExistsError):
            os.link(draft.name, path)
