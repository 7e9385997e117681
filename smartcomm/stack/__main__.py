"""`make run`: everything from one command, until Ctrl-C."""

import os
import signal
import sys
import time
from contextlib import ExitStack

from smartcomm.embedded import EmbeddedError, Services, prepare_data_directory
from smartcomm.embedded.keeper import lock_path
from smartcomm.embedded.locks import FileLock
from smartcomm.embedded.processes import die_with_parent
from smartcomm.stack import preflight
from smartcomm.stack.environment import Environment, StartError, read_environment
from smartcomm.stack.preparation import is_prepared, prepare
from smartcomm.stack.programs import Program, programs_of
from smartcomm.stack.readiness import Readiness
from smartcomm.stack.supervisor import (
    Stopped,
    StopRequest,
    Supervisor,
    program_environment,
    say,
)

GLANCE_SECONDS = 0.2
# More deaths than this of one program before all is ready: it will not get better.
MOST_EARLY_DEATHS = 2


def main() -> int:
    if "--end-with-parent" in sys.argv:
        # However `make run` ends, what it started should.
        die_with_parent(os.getppid(), signal.SIGTERM)
    request = StopRequest()
    try:
        with ExitStack() as held:
            run(held, request)
    except Stopped:
        return 0
    except EmbeddedError as error:
        say(str(error))
        return 1
    return 0


def run(held: ExitStack, request: StopRequest) -> None:
    """Start everything and look after it. Whoever owns `held` ends it."""
    environment = read_environment()
    hold_data_directory(held)
    preflight.check_port(environment)
    services = held.enter_context(Services())
    preflight.check_database()
    preflight.check_redis()
    variables = program_environment(environment.variables())

    if not is_prepared(environment.demo):
        prepare(environment.demo, variables)

    # Again, because preparing can take minutes, and the web server would share the
    # port with another that took it meanwhile.
    preflight.check_port(environment)
    programs = programs_of(environment)
    supervisor = Supervisor(programs, variables)
    held.callback(supervisor.stop, request)
    supervisor.start()
    wait_until_ready(environment, programs, supervisor)
    print(ready_line(environment), flush=True)  # noqa: T201
    while True:
        time.sleep(GLANCE_SECONDS)
        supervisor.look_after()
        keep_services(services)


def hold_data_directory(held: ExitStack) -> None:
    """Refuse a second run on the same data."""
    directory = prepare_data_directory()
    lock = held.enter_context(FileLock(lock_path("stack", "run")))
    if not lock.try_take():
        raise StartError(
            f"Another `make run` uses {directory}. "
            "Stop it, or set SMARTCOMM_DATA to another directory."
        )


def wait_until_ready(
    environment: Environment,
    programs: list[Program],
    supervisor: Supervisor,
) -> None:
    readiness = Readiness(environment, programs)
    while not readiness.ask():
        supervisor.look_after()
        supervisor.refuse_repeated_deaths(MOST_EARLY_DEATHS)
        time.sleep(0.05)


def ready_line(environment: Environment) -> str:
    login = "" if environment.demo == "none" else "  (login demo / demo)"
    return f"Ready: {environment.base_url}/admin/{login}"


def keep_services(services: Services) -> None:
    try:
        services.ensure()
    except EmbeddedError as error:
        say(str(error))


if __name__ == "__main__":
    sys.exit(main())
