"""The settings of a start: read from the environment once, or refused in words."""

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from smartcomm.embedded import EmbeddedError

DEMOS = ["small", "full", "none"]
BOOLEANS = ["1", "0", "true", "false", "yes", "no", "on", "off"]
KINDS = ["customer", "system"]
LOG_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
SCHEMES = {
    "DATABASE_URL": ["postgresql", "postgres"],
    "DATABASE_REPLICA_URL": ["postgresql", "postgres"],
    "REDIS_URL": ["redis", "rediss", "unix"],
    "AMQP_URL": ["amqp", "amqps"],
    "EMAIL_URL": ["smtp", "smtps", "smtp+tls", "smtp+ssl", "consolemail"],
}


class StartError(EmbeddedError):
    """A reason not to start, as a sentence for whoever typed the command."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    host: str
    port: int
    demo: str
    web_workers: int
    web_threads: int
    message_threads: int
    #: Whether there is a queue to read events from.
    has_queue: bool

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def variables(self) -> dict[str, str]:
        """What the lines of the Procfile may refer to."""
        return {
            "HOST": self.host,
            "PORT": str(self.port),
            "DEMO": self.demo,
            "WEB_WORKERS": str(self.web_workers),
            "WEB_THREADS": str(self.web_threads),
            "MESSAGE_THREADS": str(self.message_threads),
        }


def read_environment(variables: Mapping[str, str] = os.environ) -> Environment:
    """The settings of this start. Raises StartError at the first that is wrong."""
    # Used by Django, where a wrong value would be misread or shown as a traceback.
    for name in ("DEBUG", "HTTPS", "DATABASE_PREPARES"):
        _choice(variables, name, BOOLEANS, default="off", convert=str.lower)
    _choice(variables, "LOG_LEVEL", LOG_LEVELS, default="INFO", convert=str.upper)
    _number(variables, "DATABASE_POOL", default=20, most=1000)
    _number(variables, "API_REQUESTS_PER_SECOND", default=0, least=0, most=1_000_000)
    _number(variables, "API_FAILURES_PER_SECOND", default=0, least=0, most=1_000_000)
    _number(variables, "SEGMENT_COUNT_SECONDS", default=60, most=3_600)
    _number(variables, "SEGMENT_COUNTS_AT_ONCE", default=2, most=100)
    _number(variables, "TRUSTED_PROXIES", default=0, least=0, most=10)
    _number(variables, "WEBHOOK_CALLS_AT_ONCE", default=16, most=200)
    _number(variables, "WEBHOOK_CALLS_PER_RECEIVER", default=4, most=200)
    _refuse_impossible_webhook_secret(variables)
    _choice(variables, "AMQP_KIND", KINDS, default="customer")
    _number(variables, "AMQP_PREFETCH", default=2_000, most=65_535)
    _number(variables, "AMQP_BATCH", default=1_000, most=1_000)
    _number(variables, "AMQP_BATCH_MS", default=50, least=0, most=10_000)
    _refuse_impossible_queue(variables)
    _refuse_impossible_source(variables)
    _refuse_unknown_time_zone(variables)
    for name, schemes in SCHEMES.items():
        _refuse_unknown_scheme(variables, name, schemes)
    return Environment(
        host=variables.get("HOST") or "127.0.0.1",
        port=_number(variables, "PORT", default=8000, most=65_535),
        demo=_choice(variables, "DEMO", DEMOS, default="small"),
        web_workers=_number(variables, "WEB_WORKERS", default=_cores(), most=64),
        web_threads=_number(variables, "WEB_THREADS", default=4, most=64),
        message_threads=_number(variables, "MESSAGE_THREADS", default=4, most=64),
        has_queue=bool(variables.get("AMQP_URL")),
    )


def _cores() -> int:
    return min(len(os.sched_getaffinity(0)), 4)


def _number(
    variables: Mapping[str, str], name: str, *, default: int, most: int, least: int = 1
) -> int:
    value = variables.get(name) or str(default)
    if not value.isdecimal() or not least <= int(value) <= most:
        raise StartError(
            f"{name} must be a number from {least} to {most}, not {value!r}."
        )
    return int(value)


def _choice(
    variables: Mapping[str, str],
    name: str,
    choices: list[str],
    *,
    default: str,
    convert: Callable[[str], str] = str,
) -> str:
    value = convert(variables.get(name) or default)
    if value not in choices:
        raise StartError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
    return value


def _refuse_impossible_queue(variables: Mapping[str, str]) -> None:
    name = variables.get("AMQP_QUEUE") or "smartcomm.events"
    if len(name.encode(errors="replace")) > 255 or name.startswith("amq."):
        raise StartError(
            "AMQP_QUEUE must be a name of at most 255 bytes that does not start with "
            f"amq., not {name!r}."
        )


def _refuse_impossible_source(variables: Mapping[str, str]) -> None:
    name = variables.get("AMQP_SOURCE") or "RabbitMQ"
    if not 0 < len(name.strip()) <= 128:
        raise StartError(
            f"AMQP_SOURCE must be a name of 1 to 128 characters, not {name!r}."
        )


def _refuse_impossible_webhook_secret(variables: Mapping[str, str]) -> None:
    secrets = (variables.get("WEBHOOK_SECRET") or "").split(",")
    for secret in filter(None, map(str.strip, secrets)):
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            key = b""
        # What it says is not shown.
        if not 24 <= len(key) <= 64:
            raise StartError(
                "WEBHOOK_SECRET must be whsec_ and 24 to 64 bytes in Base64; several "
                "with commas."
            )


def _refuse_unknown_time_zone(variables: Mapping[str, str]) -> None:
    name = variables.get("TIME_ZONE") or "UTC"
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise StartError(
            f"TIME_ZONE must be a name like Europe/Berlin, not {name!r}."
        ) from error


def _refuse_unknown_scheme(
    variables: Mapping[str, str], name: str, schemes: list[str]
) -> None:
    address = variables.get(name)
    # The address itself is not shown: it may hold a password.
    if address and urlsplit(address).scheme not in schemes:
        raise StartError(f"{name} must start with one of {', '.join(schemes)}.")
