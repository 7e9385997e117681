"""What this app tells the apps above it."""

from django.dispatch import Signal

#: Sent after the commit that left events for campaigns to look at.
events_recorded = Signal()
