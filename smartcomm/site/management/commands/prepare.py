from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import authenticate, get_user_model
from django.core.management import BaseCommand, call_command
from django.db import connection

from smartcomm.stack.preparation import APPLIED, fingerprint

# Any number that no other user of advisory locks in this database has.
LOCK = 7_202_611


class Command(BaseCommand):
    help = "Bring the database and the static files to what the code needs."
    # They would run before the migrations that they ask for.
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--demo",
            choices=["small", "full", "none"],
            default="none",
            help="the demo data to load, and with it the login demo / demo",
        )

    def handle(self, *args: Any, demo: str, **options: Any) -> None:
        with connection.cursor() as cursor:
            # Machines that share a database may start at the same time.
            cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])
            try:
                self._prepare(demo)
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])

    def _prepare(self, demo: str) -> None:
        call_command("migrate", interactive=False, verbosity=0)
        call_command("collectstatic", interactive=False, verbosity=0)
        if demo == "none":
            if not self._someone_can_log_in():
                return  # Not noted as prepared, so that the next start tells it again.
        else:
            call_command("create_demo_login")
            call_command("load_demo", size=demo)
        note_preparation(demo)

    def _someone_can_log_in(self) -> bool:
        if authenticate(username="demo", password="demo"):  # noqa: S106
            self.stderr.write(
                "The login demo / demo of an earlier start still works. "
                "Remove it in the admin, under Users."
            )
        administrators = get_user_model().objects.filter(
            is_superuser=True, is_active=True
        )
        if administrators.exists():
            return True
        self.stderr.write(
            "There is no administrator yet. Make one, while this runs, with "
            "`.venv/bin/python manage.py createsuperuser`."
        )
        return False


def note_preparation(demo: str) -> None:
    """Let the next start know that there is nothing to prepare."""
    with connection.cursor() as cursor:
        cursor.execute(APPLIED)
        note = fingerprint(demo, [name for (name,) in cursor.fetchall()])
        # A comment takes no parameters; the note is words and a number of ours.
        cursor.execute(f"COMMENT ON TABLE django_migrations IS '{note}'")
