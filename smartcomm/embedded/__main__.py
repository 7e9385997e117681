"""Programs around the embedded servers, to be run as `python -m smartcomm.embedded`.

psql, pg_dump, ...   that program of PostgreSQL, on the embedded database
hold COMMAND...      any command, with the servers up while it runs
keep SERVER          for our own use: the process that keeps a server running
"""

import os
import subprocess
import sys

from smartcomm.embedded.errors import EmbeddedError
from smartcomm.embedded.keeper import keep
from smartcomm.embedded.places import DATABASE, socket_directory
from smartcomm.embedded.postgres import programs
from smartcomm.embedded.services import Services


def main(arguments: list[str]) -> int:
    match arguments:
        case ["keep", name, *options]:
            return keep(name, durable="--not-durable" not in options)
        case ["hold", *command] if command:
            return run(command)
        case [program, *rest] if (programs() / program).exists():
            return run([str(programs() / program), *rest])
    sys.stderr.write(__doc__ or "")
    return 2


def run(command: list[str]) -> int:
    """Run a command with the servers up, and with PostgreSQL's variables set."""
    address = {"PGHOST": str(socket_directory()), "PGUSER": DATABASE}
    environment = {**os.environ, **address, "PGDATABASE": DATABASE}
    with Services():
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EmbeddedError as error:
        sys.exit(str(error))
