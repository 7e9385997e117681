"""The back office of segments: the list, a segment's pages, and what its parts ask.

One class is registered, in `lists`; each module adds its pages to those of the one
before: changelist, page, members, versions, lists.
"""

from segments.admin import building, explaining, lists, previewing

__all__ = ["building", "explaining", "lists", "previewing"]
