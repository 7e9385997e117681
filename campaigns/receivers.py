"""What campaigns do when the apps below have news: ring the bell."""

from typing import Any

from django.dispatch import receiver

from campaigns.bells import TICK
from events.signals import events_recorded
from messaging.signals import messages_settled
from smartcomm.core import doorbell


@receiver([events_recorded, messages_settled], dispatch_uid="campaigns.wake")
def wake(**kwargs: Any) -> None:
    doorbell.ring(TICK)
