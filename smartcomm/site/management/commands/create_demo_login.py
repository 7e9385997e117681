from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import BaseCommand

NAME = PASSWORD = "demo"  # noqa: S105


class Command(BaseCommand):
    help = "Create the administrator demo with the password demo, unless there is one."

    def handle(self, *args: Any, **options: Any) -> None:
        users = get_user_model().objects
        if not users.filter(username=NAME).exists():
            users.create_superuser(NAME, "demo@example.com", PASSWORD)
