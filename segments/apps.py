from django.apps import AppConfig


class SegmentsConfig(AppConfig):
    name = "segments"

    def ready(self) -> None:
        from events import sandbox as trials
        from segments import sandbox

        trials.introduce("segments", sandbox.look, named="segments")
