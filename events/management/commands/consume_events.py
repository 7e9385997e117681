from __future__ import annotations

import signal
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError

from events.consuming import Consumer, Subscription
from events.models import Kind
from smartcomm.core.errors import UserError


class Command(BaseCommand):
    help = (
        "Record the events that come in a RabbitMQ queue, until SIGTERM or Ctrl-C; "
        "see docs/rabbitmq.md. Outlives broker and database going away. Any number "
        "may read the same queue."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--url",
            default=settings.AMQP_URL,
            help="the broker: amqp://user:password@host/vhost; AMQP_URL",
        )
        parser.add_argument(
            "--queue",
            default=settings.AMQP_QUEUE,
            help="made if it is missing; AMQP_QUEUE (%(default)s)",
        )
        parser.add_argument(
            "--source",
            default=settings.AMQP_SOURCE,
            help="whose events these are, made if it is missing; AMQP_SOURCE "
            "(%(default)s)",
        )
        parser.add_argument(
            "--kind",
            default=settings.AMQP_KIND,
            choices=Kind.values,
            help="of events whose message does not say; AMQP_KIND (%(default)s)",
        )
        parser.add_argument(
            "--prefetch",
            type=int,
            default=settings.AMQP_PREFETCH,
            help="messages in hand at once; AMQP_PREFETCH (%(default)s)",
        )
        parser.add_argument(
            "--batch",
            type=int,
            default=settings.AMQP_BATCH,
            help="events recorded at once; AMQP_BATCH (%(default)s)",
        )
        parser.add_argument(
            "--batch-ms",
            type=int,
            default=settings.AMQP_BATCH_MS,
            help="how long an event waits for others; AMQP_BATCH_MS (%(default)s)",
        )
        parser.add_argument(
            "--until-empty", action="store_true", help="end when nothing is left"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["url"]:
            raise CommandError(
                "Where is the broker? Set AMQP_URL, such as "
                "amqp://user:password@host/vhost."
            )
        try:
            consumer = Consumer(
                Subscription(
                    url=options["url"],
                    queue=options["queue"],
                    source=options["source"],
                    kind=Kind(options["kind"]),
                    prefetch=options["prefetch"],
                    batch=options["batch"],
                    batch_ms=options["batch_ms"],
                )
            )
        except UserError as error:
            raise CommandError(error.message) from error

        with _told_by_signals(consumer):
            consumer.run(until_empty=options["until_empty"])
        total = consumer.total
        self.stdout.write(
            f"{total.messages:,} messages: {total.accepted:,} events accepted, "
            f"{total.duplicates:,} duplicates, {total.rejected:,} rejected."
        )


@contextmanager
def _told_by_signals(consumer: Consumer) -> Iterator[None]:
    """SIGTERM or Ctrl-C ends it after the batch at hand; the second one at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        consumer.stop()
        signal.signal(number, signal.SIG_DFL)

    before = {
        number: signal.signal(number, stop)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
