"""The actions a step can have, in the order in which the editor offers them.

To add one: write its class in a file of its own here, and name it below.
"""

from campaigns.actions.base import Action
from campaigns.actions.filter import FilterCustomers, RefreshFilter
from campaigns.actions.send import SendEmail, SendPush, SendSms
from campaigns.actions.wait import Wait

ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        FilterCustomers(),
        RefreshFilter(),
        SendEmail(),
        SendSms(),
        SendPush(),
        Wait(),
    )
}

__all__ = ["ACTIONS", "Action"]
