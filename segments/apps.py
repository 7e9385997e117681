from django.apps import AppConfig


class SegmentsConfig(AppConfig):
    name = "segments"

    def ready(self) -> None:
        from customers.merging import introduce
        from events import sandbox as trials
        from segments import merging, sandbox
        from segments.models import Change, Due, Membership

        introduce(merging.move_memberships, Membership, Change, Due)
        trials.introduce("segments", sandbox.look, named="segments")
