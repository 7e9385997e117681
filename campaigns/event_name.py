"""The field in which the name of an event is chosen or written."""

from __future__ import annotations

from typing import Any

from django import forms

from events.models import EventType
from events.wire import MAX_NAME


class EventNameField(forms.CharField):
    """As it is sent, where there is such an event; else without blanks around it.

    Names are taken literally at the door, so one may have blanks. Who types one that
    nobody has sent does not mean them.
    """

    def __init__(self, **kwargs: Any) -> None:
        # Offered are the names of the list that the page of the editor has.
        offered = forms.TextInput(attrs={"autocomplete": "off", "list": "cp-events"})
        kwargs.setdefault("widget", offered)
        super().__init__(max_length=MAX_NAME, strip=False, **kwargs)

    def to_python(self, value: object) -> str:
        name = super().to_python(value) or ""
        bare = name.strip()
        if name == bare or EventType.objects.filter(name=name).exists():
            return name
        return bare
