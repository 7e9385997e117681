"""A dry run of a draft over history: what would it have done in the last N days?

    stage    a connection of its own, on which nothing real can be written
    replay   the events of those days, in their order, by a clock that is turned
    outcome  what came of it: runs, ways, messages, samples
    orders   who asked for it, how far it is, how to stop it

The functions that work are those that always do: dispatch, broadcasts, the engine,
sending. What they write goes into temporary tables that stand in front of the real
ones; of events they see those that had occurred. See docs/campaign-rehearsal.md.
"""
