"""Send an e-mail, an SMS or a push message; go on with those it was sent to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from django import forms

from campaigns.actions.base import (
    Action,
    Config,
    ConfigInvalid,
    Outcome,
    Started,
    WaitForMessage,
    asked_of,
    only,
)
from campaigns.actions.checks import Draft, warning
from campaigns.graph import Problem
from campaigns.models import Step
from customers.models import Channel, MailingCategory
from messaging import contract, queue, render
from messaging.models import Missing
from smartcomm.core.errors import Several

SENT = "sent"


class SendForm(forms.Form):
    category = forms.SlugField(
        label="Mailing category",
        required=False,
        widget=forms.Select,
        help_text="Only customers who take this kind of mailing get it.",
    )
    missing = forms.ChoiceField(
        label="When the event lacks a variable",
        choices=Missing.choices,
        initial=Missing.SKIP,
        required=False,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        categories = MailingCategory.objects.filter(is_active=True)
        self.fields["category"].widget.choices = [
            ("", "None: the channel's consent is enough"),
            *categories.values_list("code", "name"),
        ]


class EmailForm(SendForm):
    subject = forms.CharField()
    html = forms.CharField(
        label="HTML", widget=forms.Textarea(attrs={"rows": 12}), required=False
    )
    text = forms.CharField(
        label="Plain text", widget=forms.Textarea(attrs={"rows": 6}), required=False
    )
    field_order = ("subject", "html", "text")


class SmsForm(SendForm):
    text = forms.CharField(widget=forms.Textarea(attrs={"rows": 4}))
    field_order = ("text",)


class PushForm(SendForm):
    title = forms.CharField()
    text = forms.CharField(widget=forms.Textarea(attrs={"rows": 3}))
    link = forms.CharField(required=False)
    image = forms.CharField(required=False)
    field_order = ("title", "text", "link", "image")


class Send(Action):
    channel: ClassVar[Channel]
    #: The texts this channel has.
    texts: ClassVar[tuple[str, ...]]
    way_labels = {SENT: "Sent"}

    def clean(self, config: Config) -> Config:
        only(config, {*self.texts, "category", "missing"})
        cleaned: Config = {}
        for name in self.texts:
            text = config.get(name)
            text = "" if text is None else text
            if not isinstance(text, str):
                raise ConfigInvalid(f"“{name}” is a text.", field=name)
            cleaned[name] = text
        if wrong := render.problems(self.channel, cleaned):
            raise Several(list(wrong))
        cleaned["category"] = self._category(config.get("category"))
        cleaned["missing"] = config.get("missing") or Missing.SKIP.value
        if cleaned["missing"] not in Missing:
            raise ConfigInvalid(
                f"“missing” is one of {', '.join(Missing.values)}.", field="missing"
            )
        return cleaned

    def _category(self, code: object) -> str | None:
        if code in (None, ""):
            return None
        if not MailingCategory.objects.filter(code=code, is_active=True).exists():
            raise ConfigInvalid(
                f"There is no active mailing category “{code}”.", field="category"
            )
        return str(code)

    def all_codes(self, config: Config) -> set[str]:
        return self.event_codes(config) | {
            variable.removeprefix(contract.CONTEXT)
            for name in self.texts
            for variable in render.variables(config[name])
            if variable.startswith(contract.CONTEXT)
        }

    def answers_asked(self, config: Config) -> set[str]:
        return asked_of(
            {
                variable.removeprefix("client.")
                for name in self.texts
                for variable in render.variables(config[name])
            }
        )

    def check(self, step: Step, draft: Draft) -> Iterator[Problem]:
        texts = [step.config[name] for name in self.texts]
        # What an event of ours says is asked below.
        event = draft.version.event_name if draft.carries is None else ""
        for finding in contract.check(texts, event):
            yield warning(step, f"In “{step.key}”: {finding.message}")
        yield from super().check(step, draft)

    def execute(
        self, step: Step, runs: Sequence[Started], *, now: datetime
    ) -> Mapping[int, Outcome]:
        if step.content_id is None:
            raise AssertionError("Publishing freezes the text of every sending step.")
        queue.queue_messages(
            [
                queue.Request(
                    customer_id=started.run.customer_id,
                    run_id=started.run.pk,
                    campaign_id=started.run.campaign_id,
                    version_id=step.version_id,
                    step=step.key,
                    content_id=step.content_id,
                    channel=self.channel,
                    event_id=started.run.event_id,
                    system_event_id=started.run.system_event_id,
                )
                for started in runs
            ],
            now=now,
        )
        return {started.run.pk: WaitForMessage() for started in runs}


class SendEmail(Send):
    name = "send_email"
    label = "Send e-mail"
    symbol = "mail"
    hint = "Write an e-mail; go on with those it was sent to."
    channel = Channel.EMAIL
    texts = ("subject", "html", "text")
    form = EmailForm

    def describe(self, config: Config) -> str:
        return str(config.get("subject", ""))


class SendSms(Send):
    name = "send_sms"
    label = "Send SMS"
    symbol = "sms"
    hint = "Write a short message; go on with those it was sent to."
    channel = Channel.SMS
    texts = ("text",)
    form = SmsForm

    def describe(self, config: Config) -> str:
        return str(config.get("text", ""))


class SendPush(Send):
    name = "send_push"
    label = "Send push"
    symbol = "notifications"
    hint = "Write to their phones; go on with those it was sent to."
    channel = Channel.PUSH
    texts = ("title", "text", "link", "image")
    form = PushForm

    def describe(self, config: Config) -> str:
        return str(config.get("title", ""))


#: The actions that write to customers.
SENDING = frozenset(one.name for one in (SendEmail, SendSms, SendPush))
