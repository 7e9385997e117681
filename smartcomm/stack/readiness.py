"""Whether all that was started answers."""

import http.client
import socket
from collections.abc import Iterable

from celery import Celery

from smartcomm.embedded import broker_url
from smartcomm.stack.environment import Environment
from smartcomm.stack.programs import Program


class Readiness:
    """Asks the web server and each worker, and remembers who has answered."""

    def __init__(self, environment: Environment, programs: Iterable[Program]) -> None:
        host = socket.gethostname()
        self._environment = environment
        self._celery = Celery(broker=broker_url(), set_as_current=False)
        self._silent = {f"{each.name}@{host}" for each in programs if each.is_worker}
        self._web_answers = False

    def ask(self) -> bool:
        """Ask those that have not answered yet. True when all have."""
        self._web_answers = self._web_answers or self._ask_web()
        if self._silent:
            self._silent -= self._ask_workers()
        return self._web_answers and not self._silent

    def _ask_web(self) -> bool:
        connection = http.client.HTTPConnection(
            self._environment.host, self._environment.port, timeout=5
        )
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _ask_workers(self) -> set[str]:
        answers = self._celery.control.ping(
            destination=list(self._silent), timeout=0.3, limit=len(self._silent)
        )
        return {name for answer in answers or [] for name in answer}
