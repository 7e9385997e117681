#!/usr/bin/env python
"""Run a management command on the same services as `make run`."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext

from smartcomm.embedded import EmbeddedError, Services, programs

# Commands that talk to no server. All others find PostgreSQL and Valkey running, or
# have them for as long as they take.
NEED_NO_SERVICES = {
    "check",
    "collectstatic",
    "compilemessages",
    "diffsettings",
    "findstatic",
    "help",
    "makemessages",
    "spectacular",
    "startapp",
    "version",
}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "smartcomm.settings")
    try:
        with services_for(sys.argv[1:]):
            from django.core.management import execute_from_command_line

            execute_from_command_line(sys.argv)
    except EmbeddedError as error:
        sys.exit(str(error))


def services_for(arguments: list[str]) -> AbstractContextManager[object]:
    asks_for_help = not arguments or {"-h", "--help", "--version"} & set(arguments)
    if asks_for_help or arguments[0] in NEED_NO_SERVICES:
        return nullcontext()
    if not os.environ.get("DATABASE_URL"):
        # For `dbshell`, where PostgreSQL's programs are not installed otherwise.
        os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:{programs()}"
    return Services()


if __name__ == "__main__":
    main()
