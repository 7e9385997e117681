"""Making and changing segments: one way in for the back office and for the API.

Every change of name, description or rule is kept as a version with its author. A rule
is checked as a whole before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from segments import rules, usage, versions
from segments.dictionary import Dictionary
from segments.models import Segment, SegmentVersion
from segments.upkeep import hold_keeper, refuse_feeding, rule_saved
from smartcomm.core.db import execute
from smartcomm.core.errors import Conflict, Invalid, NotFound

#: So many characters a description may have.
MAX_DESCRIPTION = 2_000

COPY_MEMBERS = """
    INSERT INTO segments_membership (customer_id, segment_id, since)
    SELECT customer_id, %s, %s FROM segments_membership WHERE segment_id = %s
"""


class ChangedMeanwhile(Conflict):
    """Somebody else saved the segment since it was opened."""

    code = "changed_meanwhile"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a segment is to say."""

    name: str
    description: str = ""
    #: JSON; None for a list.
    rule: Any = None
    is_watched: bool = False


def create(
    wanted: Wanted,
    *,
    author: str,
    kind: str = Segment.Kind.DYNAMIC,
    user_id: int | None = None,
    now: datetime | None = None,
) -> Segment:
    """Save a new segment, to be counted soon. Raises Conflict for a name that is
    taken, RuleError for a rule that is not understood."""
    now = now or timezone.now()
    segment = Segment(kind=kind, created_by_id=user_id)
    with transaction.atomic():
        if not segment.is_static:
            # A list asks for nobody, and may take long to be filled.
            usage.hold()
        told = checked(wanted, segment)
        segment.name, segment.description = told.name, told.description
        segment.rule, segment.is_watched = told.rule, told.is_watched
        if segment.is_static:
            segment.count, segment.counted_at = 0, now
            segment.status, segment.members_of = Segment.Status.FRESH, segment.edition
        _write(segment)
        versions.keep(segment, author=author, now=now)
        rule_saved(segment)
    return segment


def change(
    segment: Segment,
    wanted: Wanted,
    *,
    author: str,
    seen: int | None = None,
    now: datetime | None = None,
) -> Segment:
    """Have the segment say this from now on. What is wanted anyway changes nothing.

    `seen` is the number of the version that the author had before their eyes: when a
    newer one was saved since, raises ChangedMeanwhile.
    """
    now = now or timezone.now()
    with transaction.atomic():
        stored = lock(segment, seen=seen)
        told = checked(wanted, stored)
        named = [
            name
            for name in ("name", "description", "rule", "is_watched")
            if getattr(stored, name) != getattr(told, name)
        ]
        if not named:
            return stored
        if named != ["is_watched"] and not versions.current_number(stored):
            # Made before versions were kept: what it said is not to be lost.
            versions.keep(stored, author="", now=stored.updated_at)
        for name in named:
            setattr(stored, name, getattr(told, name))
        # Only what was told: a count may be kept at this very moment.
        _write(stored, [*named, "updated_at"])
        if set(named) & {"name", "description", "rule"}:
            versions.keep(stored, author=author, now=now)
        if "rule" in named:
            rule_saved(stored)
    return stored


def lock(segment: Segment, *, seen: int | None = None) -> Segment:
    """The segment as it is now, locked, and all that segments ask of each other. Call
    inside a transaction."""
    usage.hold()
    stored = lock_row(segment)
    if seen is not None and seen != (newest := versions.current_number(stored)):
        raise ChangedMeanwhile(
            f"The segment was saved by somebody else since: version {newest} is there "
            f"now, and you had version {seen}. Read it again, then change it.",
            field="version",
        )
    return stored


def lock_row(segment: Segment) -> Segment:
    """The segment as it is now, locked; others may be saved meanwhile. Call inside a
    transaction."""
    stored = (
        Segment.objects.select_for_update(no_key=True).filter(pk=segment.pk).first()
    )
    if stored is None:
        raise NotFound("The segment was deleted meanwhile.")
    return stored


def restore_version(
    segment: Segment, number: int, *, author: str, now: datetime | None = None
) -> Segment:
    """Have the segment say again what it said then. Makes a new version."""
    old: SegmentVersion = versions.version_of(segment, number)
    wanted = Wanted(old.name, old.description, old.rule, segment.is_watched)
    return change(segment, wanted, author=author, now=now)


def duplicate(
    segment: Segment,
    *,
    author: str,
    user_id: int | None = None,
    now: datetime | None = None,
) -> Segment:
    """Another segment that says the same; of a list, with the same customers."""
    now = now or timezone.now()
    with transaction.atomic():
        copy = create(
            Wanted(_copy_name(segment.name), segment.description, segment.rule),
            author=author,
            kind=segment.kind,
            user_id=user_id,
            now=now,
        )
        if segment.is_static:
            copy.count = execute(COPY_MEMBERS, [copy.pk, now, segment.pk])
            copy.save(update_fields=["count"])
    return copy


def archive(segment: Segment, *, now: datetime | None = None) -> Segment:
    """Keep the segment no longer up to date, and offer it nowhere. Raises Conflict
    while a campaign or a segment at work needs it."""
    with transaction.atomic():
        stored = lock(segment)
        if not stored.is_archived:
            usage.refuse_if_at_work(stored)
            stored.archived_at = now or timezone.now()
            stored.save(update_fields=["archived_at"])
    return stored


def restore(segment: Segment) -> Segment:
    """Take an archived segment back into use. It is counted anew soon."""
    with transaction.atomic():
        stored = lock(segment)
        if stored.is_archived:
            stored.archived_at = None
            # What was known of its members holds no longer.
            stored.fingerprint = ""
            if not stored.is_static:
                usage.refuse_archived(rules.parse(stored.rule))
            stored.save(update_fields=["archived_at", "fingerprint"])
            rule_saved(stored)
    return stored


def delete(segment: Segment) -> None:
    """Delete the segment, its members and versions. Raises Conflict while something
    needs it."""
    with transaction.atomic():
        hold_keeper()
        stored = lock(segment)
        usage.refuse_if_used(stored)
        stored.delete()


def checked(wanted: Wanted, segment: Segment) -> Wanted:
    """The same, in order; what does not fit the segment is refused.

    A rule that stays as it is is not looked at: what has become wrong with it meanwhile
    hinders nobody from mending the name.
    """
    name = wanted.name.strip()
    if not name:
        raise Invalid("Give the segment a name.", field="name")
    for place, text in (("name", name), ("description", wanted.description)):
        if rules.UNSTORABLE.search(text):
            raise Invalid(
                f"The {place} has a character that no text can hold.", field=place
            )
    too_long = len(wanted.description) > MAX_DESCRIPTION
    if too_long and wanted.description != segment.description:
        raise Invalid(
            f"A description has at most {MAX_DESCRIPTION:,} characters.",
            field="description",
        )
    if segment.is_static:
        if wanted.rule is not None:
            raise Invalid("A list has no rule.", field="rule")
        _refuse_silence(wanted, segment)
        return Wanted(name, wanted.description, is_watched=wanted.is_watched)
    rule = rules.parse(wanted.rule)
    data = rules.to_json(rule)
    if data != segment.rule:
        if segment.pk:
            usage.refuse_circle(segment.pk, rule)
        usage.refuse_archived(rule)
        Dictionary.of(rule)  # Refuses names that do not exist.
    _refuse_silence(wanted, segment)
    if wanted.is_watched and (data != segment.rule or not segment.is_watched):
        refuse_feeding(Segment(pk=segment.pk, rule=data, is_watched=True))
    return Wanted(name, wanted.description, data, wanted.is_watched)


def _refuse_silence(wanted: Wanted, segment: Segment) -> None:
    """A segment goes on telling who comes and goes while anybody answers that."""
    if segment.pk and segment.is_watched and not wanted.is_watched:
        usage.refuse_if_awaited(segment)


def _write(segment: Segment, named: list[str] | None = None) -> None:
    try:
        with transaction.atomic():
            segment.save(update_fields=named)
    except IntegrityError as error:
        raise Conflict(
            f"There is a segment “{segment.name}” already. Choose another name.",
            field="name",
            code="name_taken",
        ) from error


def _copy_name(name: str) -> str:
    taken = set(
        Segment.objects.filter(name__startswith="Copy of").values_list(
            "name", flat=True
        )
    )
    number = 1
    while True:
        end = "" if number == 1 else f" ({number})"
        found = f"Copy of {name}"[: 150 - len(end)] + end
        if found not in taken:
            return found
        number += 1
