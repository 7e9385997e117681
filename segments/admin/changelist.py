"""The list of segments: what each is, how many are in it, how well that is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.decorators import action, display
from unfold.views import ChangeList

from customers.models import Customer
from segments import builder, finding, lists, rules, saving, usage, versions
from segments.admin import look
from segments.models import Segment
from segments.upkeep import recount_wanted, state, with_state
from smartcomm.core import paging
from smartcomm.core.admin import ModelAdmin
from smartcomm.core.errors import UserError
from smartcomm.core.look import badge, link
from smartcomm.core.templatetags.look import number

#: A sentence in the list is cut after so many letters.
SENTENCE = 260


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(Segment.Status.choices)

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if not (status := self.value()):
            return queryset
        return finding.with_status(queryset, status, now=timezone.now())


class KindFilter(admin.SimpleListFilter):
    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            *Segment.Kind.choices,
            ("watched", "Records events"),
        ]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case "watched":
                return queryset.filter(is_watched=True)
            case str() as kind if kind in Segment.Kind.values:
                return queryset.filter(kind=kind)
        return queryset


class ArchivedFilter(admin.SimpleListFilter):
    """Archived ones are out of the way unless they are asked for."""

    title = "archive"
    parameter_name = "archived"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Archived"), ("all", "In use and archived")]

    def choices(self, changelist: Any) -> Any:
        first, *others = super().choices(changelist)
        yield {**first, "display": "In use"}
        yield from others

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case "yes":
                return queryset.filter(archived_at__isnull=False)
            case "all":
                return queryset
        return queryset.filter(archived_at=None)


class UsedFilter(admin.SimpleListFilter):
    title = "use"
    parameter_name = "used"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Used by something"), ("no", "Used by nothing")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case "yes":
                return queryset.filter(pk__in=usage.all_uses())
            case "no":
                return queryset.exclude(pk__in=usage.all_uses())
        return queryset


class SegmentChangeList(ChangeList):
    """The list, with what its rows need looked up for the page at once."""

    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows: list[Any] = list(self.result_list)
        days = look.days_of(rows, today=timezone.localdate())
        for row in rows:
            row.days = days[row.pk]
        self.result_list = rows


class SegmentList(ModelAdmin):
    list_display = ("named", "customers", "share", "lately", "standing", "used_by")
    list_display_links = ("named",)
    list_filter = (StateFilter, KindFilter, ArchivedFilter, UsedFilter)
    search_fields = ("name", "description")
    ordering = ("name",)
    actions: ClassVar[list[str]] = [
        "recount_chosen",
        "export_chosen",
        "duplicate_chosen",
        "archive_chosen",
        "restore_chosen",
    ]
    actions_list: ClassVar[list[str]] = ["new_list"]

    class Media:
        css: ClassVar = {"all": ["segments/builder.css", "segments/desk.css"]}

    def get_queryset(self, request: HttpRequest) -> Any:
        return with_state(super().get_queryset(request))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return SegmentChangeList

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        # Looked up once for all rows.
        self.words = versions.Words()
        self.base = paging.count(Customer.objects.all()).number
        self.uses = usage.all_uses()
        self.now = timezone.now()
        return super().changelist_view(request, extra_context)

    @display(description="Segment", ordering="name")
    def named(self, segment: Segment) -> str:
        marks = [badge("list", "plain", icon="list_alt")] if segment.is_static else []
        if segment.is_watched:
            marks.append(badge("records events", "primary", icon="sensors"))
        words = in_words(segment, self.words)
        return format_html(
            '<span class="scb-list-name"><strong>{}</strong>{}<span>{}</span></span>',
            segment.name,
            format_html('<span class="sd-marks">{}</span>', _joined(marks))
            if marks
            else "",
            words if len(words) < SENTENCE else f"{words[: SENTENCE - 1]}…",
        )

    @display(description="Customers", ordering="count")
    def customers(self, segment: Segment) -> str:
        if segment.count is None:
            return format_html('<span class="sc-none">{}</span>', "–")
        url = reverse("admin:segments_segment_members", args=[segment.pk])
        return format_html(
            '<a class="sd-count sc-num" href="{}">{}</a>', url, number(segment.count)
        )

    @display(description="Of all")
    def share(self, segment: Segment) -> str:
        if segment.count is None or not self.base:
            return ""
        return builder.share_text(min(1.0, segment.count / self.base))

    @display(description="30 days")
    def lately(self, segment: Segment) -> str:
        return look.spark(getattr(segment, "days", [])) or format_html(
            '<span class="sc-none">{}</span>', "–"
        )

    @display(description="State")
    def standing(self, segment: Segment) -> str:
        return look.state_badge(segment, state(segment, self.now))

    @display(description="Used by")
    def used_by(self, segment: Segment) -> str:
        uses = self.uses.get(segment.pk, [])
        if not uses:
            return format_html('<span class="sc-none">{}</span>', "–")
        if len(uses) == 1:
            return format_html('<span class="sd-used">{}</span>', use_link(uses[0]))
        url = reverse("admin:segments_segment_change", args=[segment.pk])
        return format_html(
            '<a class="sc-link sc-nowrap" href="{}#used-by" title="{}">{}</a>',
            url,
            ", ".join(map(str, uses)),
            _counted(uses),
        )

    # Deeds

    @action(description="New list", url_path="new-list", permissions=["add"])
    def new_list(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:segments_list_add"))

    @admin.action(description="Recount now", permissions=["change"])
    def recount_chosen(self, request: HttpRequest, queryset: Any) -> None:
        for segment in queryset:
            self.recount(request, segment)

    @admin.action(description="Export as CSV", permissions=["view"])
    def export_chosen(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        chosen = list(queryset[:2])
        if len(chosen) > 1:
            self.message_user(
                request, "Choose one segment: each has a file.", messages.WARNING
            )
            return None
        return HttpResponseRedirect(
            reverse("admin:segments_segment_export", args=[chosen[0].pk])
        )

    @admin.action(description="Duplicate", permissions=["add"])
    def duplicate_chosen(
        self, request: HttpRequest, queryset: Any
    ) -> HttpResponse | None:
        copies = self.each(
            request,
            queryset,
            lambda segment: saving.duplicate(
                segment, author=author_of(request), user_id=request.user.pk
            ),
            "Made {}.",
        )
        if len(copies) != 1:
            return None
        return HttpResponseRedirect(
            reverse("admin:segments_segment_change", args=[copies[0].pk])
        )

    @admin.action(description="Archive", permissions=["change"])
    def archive_chosen(self, request: HttpRequest, queryset: Any) -> None:
        self.each(request, queryset, saving.archive, "Archived {}.")

    @admin.action(description="Restore from the archive", permissions=["change"])
    def restore_chosen(self, request: HttpRequest, queryset: Any) -> None:
        self.each(request, queryset, saving.restore, "{} is in use again.")

    def each(
        self,
        request: HttpRequest,
        segments: Any,
        deed: Callable[[Segment], Segment],
        told: str,
    ) -> list[Segment]:
        """Do it to each; what is refused is said, and hinders none of the others."""
        done = []
        for segment in segments:
            try:
                done.append(deed(segment))
            except UserError as error:
                self.message_user(request, error.message, messages.ERROR)
        if done:
            names = ", ".join(f"“{segment}”" for segment in done[:5])
            more = f" and {len(done) - 5} more" if len(done) > 5 else ""
            self.message_user(request, told.format(names + more))
            for segment in done:
                self.log_change(request, segment, told.format(f"“{segment}”"))
        return done

    def recount(self, request: HttpRequest, segment: Segment) -> None:
        """Have everybody asked anew; a list is counted while one waits."""
        if segment.is_static:
            count = lists.recount(segment)
            words = "customer" if count == 1 else "customers"
            self.message_user(request, f"{segment}: {number(count)} {words}.")
        elif segment.is_archived:
            said = f"{segment} is archived: it is counted when it is restored."
            self.message_user(request, said, messages.WARNING)
        else:
            recount_wanted(segment)
            self.message_user(request, f"{segment} is being counted anew.")


def in_words(segment: Segment, words: versions.Words) -> str:
    """What is said under the name of a segment."""
    if segment.is_static:
        return f"{segment.description} A list of customers.".strip()
    try:
        return words(rules.parse(segment.rule)) + "."
    except UserError as error:
        return f"This rule is not understood: {error.message}"


def use_link(use: usage.Use) -> str:
    icon = "campaign" if use.kind == "campaign" else "donut_small"
    return format_html(
        '<span class="sd-use" title="{}"><span class="material-symbols-outlined" '
        'aria-hidden="true">{}</span>{}</span>',
        use,
        icon,
        link(use.url, use.name),
    )


def author_of(request: HttpRequest) -> str:
    return str(request.user.get_username())


def _joined(marks: list[Any]) -> str:
    return format_html("{}" * len(marks), *marks)


def _counted(uses: list[usage.Use]) -> str:
    words = []
    for kind in ("campaign", "segment"):
        if many := sum(use.kind == kind for use in uses):
            words.append(f"{many} {kind}{'s' if many > 1 else ''}")
    return ", ".join(words)
