"""The back office of events: journals, rejected events, types, sources and keys."""

from events.admin import journals, mappings, rejected, sources, types

__all__ = ["journals", "mappings", "rejected", "sources", "types"]
