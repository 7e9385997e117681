from django.apps import AppConfig


class MessagingConfig(AppConfig):
    name = "messaging"

    def ready(self) -> None:
        from customers.merging import Stage, introduce
        from messaging import merging
        from messaging.models import Delivery, Message

        introduce(merging.hold_messages, stage=Stage.HOLD)
        introduce(merging.move_messages, Message, Delivery)
