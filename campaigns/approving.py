"""A second person for publishing, where the installation wants one.

With PUBLISHING_NEEDS_TWO, nobody who has changed a draft publishes it: they ask for it,
and somebody else approves or declines with a word. What is approved is what was asked
for: a draft that is changed makes the request void. Requests are kept, as the book of
who published what.
"""

from __future__ import annotations

from django.conf import settings
from django.db import transaction

from campaigns.models import Campaign, PublishRequest, Version
from smartcomm.core.clock import database_now
from smartcomm.core.errors import Conflict, Invalid

MOST_WORDS = 1_000
Status = PublishRequest.Status


def is_needed() -> bool:
    return bool(settings.PUBLISHING_NEEDS_TWO)


def may_publish(version: Version, *, by: str) -> bool:
    """Whether this person may publish the draft: they are none of its authors.

    What nobody is known to have drawn (by a program, say) anybody may publish.
    """
    return (
        not is_needed() or not version.authors or bool(by and by not in version.authors)
    )


def refuse_author(version: Version, *, by: str) -> None:
    if not may_publish(version, by=by):
        raise Conflict(
            "Here a second person publishes what you have drawn. Ask for publishing, "
            "and let somebody else approve it.",
            code="second_person_needed",
        )


def open_request(campaign: Campaign) -> PublishRequest | None:
    return campaign.publish_requests.filter(status=Status.OPEN).first()


def said_no(version: Version) -> PublishRequest | None:
    """What somebody else said last to publishing this draft, if that was no."""
    last = version.campaign.publish_requests.filter(version=version.number).first()
    if (
        last is None
        or last.status != Status.DECLINED
        or last.decided_by == last.asked_by
    ):
        return None
    return last


def ask(version: Version, *, stamp: str, by: str) -> PublishRequest:
    """Ask that somebody else publish the draft. Call with the campaign locked."""
    if not is_needed():
        raise Conflict("Nobody needs to be asked here: publish it.")
    if open_request(version.campaign):
        raise Conflict("It has been asked for already, and waits for somebody else.")
    return PublishRequest.objects.create(
        campaign=version.campaign,
        version=version.number,
        stamp=stamp,
        asked_by=by,
        asked_at=database_now(),
    )


def decline(campaign: Campaign, *, by: str, word: str) -> PublishRequest:
    """Say no, and why. Whoever asked takes it back the same way, and need not say."""
    word = word.strip()
    with transaction.atomic():
        # So that it is not declined while somebody approves it.
        Campaign.objects.select_for_update().get(pk=campaign.pk)
        request = open_request(campaign)
        if request is None:
            raise Conflict("Nobody asks for publishing this campaign.")
        if len(word) > MOST_WORDS or not (word or request.asked_by == by):
            raise Invalid(f"Say why, in up to {MOST_WORDS:,} characters.", field="word")
        _decide(request, Status.DECLINED, by=by, word=word)
    return request


def find_asked(campaign: Campaign, *, stamp: str, by: str) -> PublishRequest:
    """The open request, which this person may approve. Raises Conflict."""
    request = open_request(campaign)
    if request is None:
        raise Conflict("Nobody asks for publishing this campaign.")
    if request.asked_by == by:
        raise Conflict(
            "You have asked for it yourself: somebody else approves it.",
            code="second_person_needed",
        )
    if request.stamp != stamp:
        raise Conflict("The draft is not what was asked for. Ask again.")
    return request


def note_published(version: Version, *, by: str, word: str = "") -> None:
    """Whoever published it has approved what was asked for."""
    request = open_request(version.campaign)
    if request is not None:
        _decide(request, Status.APPROVED, by=by, word=word.strip()[:MOST_WORDS])


def void(campaign: Campaign, *, by: str, why: str) -> None:
    """The draft that was asked for is there no more."""
    request = open_request(campaign) if campaign.pk else None
    if request is not None:
        _decide(request, Status.VOID, by=by, word=why)


def _decide(request: PublishRequest, status: str, *, by: str, word: str) -> None:
    request.status, request.decided_by, request.word = status, by, word
    request.decided_at = database_now()
    request.save()
