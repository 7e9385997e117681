"""The actions a step can have, in the order in which the editor offers them.

To add one: write its class in a file of its own here, and name it below.
"""

from campaigns.actions.base import Action
from campaigns.actions.customer import AddToList, RemoveFromList, SetAttribute
from campaigns.actions.end import End
from campaigns.actions.filter import FilterCustomers, RefreshFilter
from campaigns.actions.happen import WaitForEvent
from campaigns.actions.limit import LimitParticipants
from campaigns.actions.record import RecordEvent
from campaigns.actions.send import SendEmail, SendPush, SendSms
from campaigns.actions.split import AbSplit, ControlGroup
from campaigns.actions.wait import Wait
from campaigns.actions.webhook import CallWebhook

ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        FilterCustomers(),
        RefreshFilter(),
        SendEmail(),
        SendSms(),
        SendPush(),
        Wait(),
        WaitForEvent(),
        AbSplit(),
        LimitParticipants(),
        ControlGroup(),
        SetAttribute(),
        AddToList(),
        RemoveFromList(),
        RecordEvent(),
        CallWebhook(),
        End(),
    )
}

__all__ = ["ACTIONS", "Action"]
