"""The names of this app's doorbells (see smartcomm.core.doorbell)."""

#: Pending events → runs and broadcasts; due runs one step on.
TICK = "campaigns.tasks.tick"
#: Broadcasts, chunk by chunk.
WALK = "campaigns.tasks.walk_broadcasts"
#: Rehearsals of drafts.
REHEARSE = "campaigns.tasks.rehearse"
#: Calls to systems outside.
CALL = "campaigns.tasks.send_webhooks"
#: Reports that are dear to count, and were looked at.
COUNT = "campaigns.tasks.count_reports"
