from django.apps import AppConfig


class CampaignsConfig(AppConfig):
    name = "campaigns"

    def ready(self) -> None:
        from campaigns import receivers, references  # noqa: F401
        from campaigns.outside import outside
        from segments import outside as asked
        from segments import usage

        usage.introduce(references.users_of_segments)
        asked.introduce(outside())
        from campaigns.askers import Campaigns
        from messaging import askers

        askers.introduce(Campaigns())

        from campaigns.webhooks import answers
        from messaging import answers as answers_in_texts

        answers_in_texts.introduce(answers.of_runs)

        from campaigns import merging
        from campaigns.models import (
            Entry,
            MovedRun,
            Passage,
            Run,
            TurnedAway,
            WebhookCall,
        )
        from customers.merging import Stage, introduce

        introduce(merging.hold_runs, stage=Stage.HOLD)
        introduce(
            merging.move_runs, Run, Passage, MovedRun, Entry, TurnedAway, WebhookCall
        )

        from campaigns.triggers import PLANNED
        from events import history

        history.set_apart(*(trigger.event for trigger in PLANNED.values()))

        from campaigns import sandbox
        from events import sandbox as trials

        trials.introduce("campaigns", sandbox.look, named="campaigns")
