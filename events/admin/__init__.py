"""The back office of events: journals, rejected events, imports, types and sources."""

from events.admin import imports, journals, mappings, rejected, sources, types

__all__ = ["imports", "journals", "mappings", "rejected", "sources", "types"]
