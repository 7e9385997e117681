"""What runs: the lines of the Procfile, `name: command`."""

from dataclasses import dataclass
from pathlib import Path

from smartcomm.embedded.places import PROJECT
from smartcomm.stack.environment import Environment

#: Runs only where there is a queue to read.
CONSUMER = "consumer"


@dataclass(frozen=True)
class Program:
    name: str
    command: str

    @property
    def is_worker(self) -> bool:
        """Whether it takes tasks, under its own name in front of the machine's."""
        return f"--hostname {self.name}@%h" in self.command

    @property
    def arguments(self) -> list[str]:
        # The shell puts in the variables, then makes way for the program, so that
        # signals reach the program itself.
        return ["/bin/sh", "-c", f"exec {self.command}"]


def read_procfile(path: Path = PROJECT / "Procfile") -> list[Program]:
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    parts = [line.partition(":") for line in lines]
    return [Program(name.strip(), command.strip()) for name, _, command in parts]


def programs_of(environment: Environment) -> list[Program]:
    """What this start is to run."""
    return [
        program
        for program in read_procfile()
        if program.name != CONSUMER or environment.has_queue
    ]
