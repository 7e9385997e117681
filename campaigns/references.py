"""What campaigns need of the apps below, so that it is not deleted under them."""

from __future__ import annotations

from django.db.models import Exists, OuterRef, Q

from campaigns.models import Campaign, Run, Step, Version
from segments.usage import segments_in


def users_of_segment(pk: int) -> list[str]:
    """The campaigns whose filters ask for this segment, now or for runs under way."""
    under_way = Run.objects.filter(
        version=OuterRef("version"), status=Run.Status.WAITING
    )
    steps = (
        Step.objects.filter(
            Q(version__status__in=[Version.Status.DRAFT, Version.Status.PUBLISHED])
            | Exists(under_way),
            action="filter_customers",
        )
        .exclude(version__campaign__status=Campaign.Status.ARCHIVED)
        .select_related("version__campaign")
        .order_by("version__campaign__name")
    )
    names = [
        f"the campaign “{step.version.campaign}”"
        for step in steps
        if pk in segments_in(step.config["rule"])
    ]
    return list(dict.fromkeys(names))
