"""The back office of events: journals, rejected events, types, sources and keys."""

from events.admin import journals, rejected, sources, types

__all__ = ["journals", "rejected", "sources", "types"]
