from django.apps import AppConfig


class CampaignsConfig(AppConfig):
    name = "campaigns"

    def ready(self) -> None:
        from campaigns import receivers, references  # noqa: F401
        from segments import usage

        usage.introduce(references.users_of_segment)
        from campaigns.askers import Campaigns
        from messaging import askers

        askers.introduce(Campaigns())
