"""What this app tells those above it."""

from django.dispatch import Signal

#: Messages that runs wait for have ended. Sent after commit, without arguments: the
#: rows tell (see messaging.queue.take_settled). A lost signal costs one tick.
messages_settled = Signal()
