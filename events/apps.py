from django.apps import AppConfig


class EventsConfig(AppConfig):
    name = "events"

    def ready(self) -> None:
        from customers.merging import Stage, introduce
        from events import merging
        from events.models import Event, PendingEvent

        introduce(merging.move_events, Event, stage=Stage.HISTORY)
        introduce(merging.hold_pending, stage=Stage.HOLD)
        introduce(merging.move_pending, PendingEvent)
        introduce(merging.drop_copies, stage=Stage.REST)
