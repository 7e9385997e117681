"""Files of customers and events: upload, say what is what, start, watch, mend."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import available_timezones

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler, StopUpload
from django.db.models import QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.http import content_disposition_header
from django.utils.safestring import SafeString
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from unfold.decorators import display

from events.admin.journals import gist
from events.importing import desk, run
from events.importing import plan as plans
from events.importing.plan import Plan
from events.importing.preview import Shown, preview
from events.importing.reading import DELIMITERS, ENCODINGS, look_at
from events.models import Import, Source
from smartcomm.core.admin import BigListMixin, ModelAdmin
from smartcomm.core.errors import UserError
from smartcomm.core.look import badge, to_the_minute

Status = Import.Status

LOOK: dict[str, tuple[str, str]] = {
    Status.UPLOADED: ("not started", "warn"),
    Status.QUEUED: ("waiting", "info"),
    Status.RUNNING: ("running", "info"),
    Status.FINISHED: ("finished", "good"),
    Status.FAILED: ("failed", "bad"),
    Status.CANCELLED: ("stopped", "plain"),
}
CONTENT_TYPES = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
OWN = "own"
#: What a form may hold beside the file itself.
FORM_BYTES = 64 * 1024


class ToDisk(FileUploadHandler):
    """Writes an upload to where imports are kept, piece by piece, up to the limit."""

    chunk_size = 1024 * 1024

    def __init__(self, request: HttpRequest) -> None:
        super().__init__(request)
        self.is_too_large = False
        self._file: Any = None
        self._written = 0

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        run.directory().mkdir(parents=True, exist_ok=True)
        self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            dir=run.directory(), suffix=".part", delete=False
        )

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self._written += len(raw_data)
        if self._written > most_bytes():
            self.is_too_large = True
            self.upload_interrupted()
            raise StopUpload(connection_reset=True)
        self._file.write(raw_data)

    def file_complete(self, file_size: int) -> UploadedFile | None:
        self._file.flush()
        self._file.seek(0)
        return UploadedFile(
            file=self._file,
            name=self.file_name,
            content_type=self.content_type,
            size=file_size,
        )

    def upload_interrupted(self) -> None:
        if self._file is not None:
            self._file.close()
            Path(self._file.name).unlink(missing_ok=True)


def most_bytes() -> int:
    return int(settings.IMPORT_MAX_MIB) * 1024 * 1024


def too_large() -> str:
    return (
        f"The file is larger than {settings.IMPORT_MAX_MIB:,} MiB. Pack it with gzip, "
        "or import it on the server: manage.py import_events."
    )


class UploadForm(forms.Form):
    """A file, and what is in it."""

    kind = forms.ChoiceField(
        label="What is in it", choices=Import.Kind, initial=Import.Kind.EVENTS
    )
    source = forms.ModelChoiceField(
        label="Source",
        queryset=Source.objects.all(),
        empty_label=None,
        error_messages={"required": "Choose the system that the file comes from."},
    )
    file = forms.FileField(
        label="File",
        error_messages={
            "required": "Choose a file.",
            "empty": "The file is empty.",
        },
    )


class TriedPlan:
    """What the plan page says, and what came of it: a plan, or what is wrong."""

    def __init__(self, one: Import, sample: desk.Sample, plan: Plan) -> None:
        self.one = one
        self.sample = sample
        self.plan = plan
        self.problems: dict[str, str] = {}
        self.shown: list[Shown] = []
        try:
            plans.checked(plan)
        except UserError as error:
            for each in getattr(error, "errors", [error]):
                self.problems.setdefault(each.field, each.message)

    @classmethod
    def stored(cls, one: Import) -> TriedPlan:
        plan = plans.read_draft(one.plan)
        return cls(one, desk.Sample(Path(one.path), plan.shape), plan)

    @classmethod
    def told(cls, one: Import, data: Any) -> TriedPlan:
        """As the form has it; what it does not say stays as it is."""
        before = plans.read_draft(one.plan)
        delimiter = data.get("delimiter", before.shape.delimiter)
        encoding = data.get("encoding", before.shape.encoding)
        shape = before.shape
        if (delimiter, encoding) != (shape.delimiter, shape.encoding):
            # Other columns: what was chosen for the old ones says nothing.
            shape = look_at(
                Path(one.path),
                format=shape.format,
                encoding=encoding if encoding in ENCODINGS else "",
                delimiter=delimiter if delimiter in DELIMITERS else "",
            )
            sample = desk.Sample(Path(one.path), shape)
            return cls(one, sample, desk.make_plan(one.kind, sample))
        sample = desk.Sample(Path(one.path), shape)
        targets, types = {}, {}
        for number, column in enumerate(before.columns):
            targets[column.name] = _target(data, number, column.target)
            types[column.name] = data.get(f"type-{number}", column.type)
        name = data.get("constant-name", before.constants.get("name", "")).strip()
        plan = desk.make_plan(
            one.kind,
            sample,
            like=before,
            targets=targets,
            types=types,
            constants={"name": name} if name else {},
            triggers="triggers" in data,
            time_zone=data.get("time_zone", before.time_zone).strip(),
            time_format=data.get("time_format", before.time_format).strip(),
            date_format=data.get("date_format", before.date_format).strip(),
            decimal_comma="decimal_comma" in data,
        )
        return cls(one, sample, plan)

    def try_out(self) -> None:
        """Fill in what would become of the first rows."""
        if self.problems:
            return
        self.shown = preview(
            self.plan,
            self.sample.header,
            self.sample.rows[:10],
            source=self.one.source,
            digest=self.one.digest or "of the file",
            now=timezone.now(),
        )

    @property
    def columns(self) -> list[dict[str, Any]]:
        """The rows of the table: a column each."""
        known = plans.fields_of(self.plan.kind)
        found = []
        for number, column in enumerate(self.plan.columns):
            is_own = bool(column.target) and column.target not in known
            found.append(
                {
                    "number": number,
                    "name": column.name,
                    "values": self.sample.values(column.name),
                    "target": OWN if is_own else column.target,
                    "code": column.target.partition(".")[2] if is_own else "",
                    "type": column.type,
                    "looks": column.looks,
                    "problem": self.problems.get(f"columns.{column.name}", ""),
                }
            )
        return found

    @property
    def without_place(self) -> dict[str, str]:
        """What is wrong with no column in particular."""
        return {
            place: text
            for place, text in self.problems.items()
            if not place.startswith("columns.")
        }

    @property
    def has_own_ids(self) -> bool:
        return self.plan.is_native or any(
            column.target == "id" for column in self.plan.columns
        )

    @property
    def has_times(self) -> bool:
        return self.plan.is_native or any(
            column.target == "occurred_at" for column in self.plan.columns
        )

    @property
    def refused(self) -> int:
        return sum(row.status == "refused" for row in self.shown)


def _target(data: Any, number: int, before: str) -> str:
    chosen = data.get(f"target-{number}")
    if chosen is None:
        return before
    if chosen != OWN:
        return str(chosen)
    code = data.get(f"code-{number}", "").strip()
    own = "attributes" if data.get("own") == "attributes" else "context"
    return f"{own}.{code}"


@admin.register(Import)
class ImportAdmin(BigListMixin, ModelAdmin):
    list_display: ClassVar = [
        "file",
        "what",
        "source",
        "progress",
        "imported_",
        "duplicates_",
        "rejected_",
        "when",
    ]
    list_display_links: ClassVar = ["file"]
    list_select_related: ClassVar = ["source"]
    list_filter: ClassVar = ["status", "kind", "source"]
    search_fields: ClassVar = ["name"]
    search_help_text = "Part of the name of a file"
    actions_on_top = True

    class Media:
        css: ClassVar = {"all": ["events/imports.css"]}

    @display(description="File")
    def file(self, one: Import) -> str:
        return format_html('<span class="sc-wrap">{}</span>', one.name)

    @display(description="What")
    def what(self, one: Import) -> str:
        return str(one.get_kind_display())

    @display(description="State")
    def progress(self, one: Import) -> SafeString:
        return SafeString(
            render_to_string("events/imports/_cell.html", {"one": one, **looks(one)})
        )

    @display(description="Imported")
    def imported_(self, one: Import) -> str:
        return count(one.imported, "imported", one)

    @display(description="Duplicates")
    def duplicates_(self, one: Import) -> str:
        return count(one.duplicates, "duplicates", one)

    @display(description="Rejected")
    def rejected_(self, one: Import) -> str:
        return count(one.rejected, "rejected", one)

    @display(description="Begun")
    def when(self, one: Import) -> SafeString:
        return to_the_minute(one.started_at or one.created_at)

    # Rights: nobody edits an import; who may add one may also start, stop and go on.

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is not None and obj.is_going:
            return False
        return bool(super().has_delete_permission(request, obj))

    def delete_model(self, request: HttpRequest, obj: Import) -> None:
        desk.delete([obj])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Import]) -> None:
        desk.delete(queryset)

    def get_urls(self) -> list[Any]:
        def place(address: str, view: Callable[..., Any], name: str) -> Any:
            return path(
                f"<int:pk>/{address}/",
                self.admin_site.admin_view(view),
                name=f"events_import_{name}",
            )

        return [
            place("plan", self.plan, "plan"),
            place("preview", self.preview, "preview"),
            place("progress", self.show_progress, "progress"),
            place("cell", self.show_cell, "cell"),
            place("refused", self.refused, "refused"),
            place("do", self.do, "do"),
            *super().get_urls(),
        ]

    # A new one

    @method_decorator(csrf_exempt)
    def add_view(
        self,
        request: HttpRequest,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Take a file in. Protected against forgery once it is said where it goes:
        the token stands in the same body as the file."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        handler = ToDisk(request)
        if request.method == "POST":
            length = request.META.get("CONTENT_LENGTH") or "0"
            if length.isdigit() and int(length) > most_bytes() + FORM_BYTES:
                form = UploadForm()
                return self._upload_page(request, form, error=too_large(), status=413)
            request.upload_handlers = [handler]
        answer: HttpResponse = csrf_protect(self._upload)(request, handler)
        return answer

    def _upload(self, request: HttpRequest, handler: ToDisk) -> HttpResponse:
        corrects = self._corrected(request)
        if request.method != "POST":
            initial = (
                {"kind": corrects.kind, "source": corrects.source_id}
                if corrects
                else {}
            )
            return self._upload_page(
                request, UploadForm(initial=initial), corrects=corrects
            )
        form = UploadForm(request.POST, request.FILES)
        if handler.is_too_large:
            return self._upload_page(request, form, error=too_large(), status=413)
        file = request.FILES.get("file")
        kept = Path(file.file.name) if file is not None else None  # type: ignore[union-attr]
        try:
            if not form.is_valid() or file is None or kept is None:
                return self._upload_page(request, form, corrects=corrects)
            one = desk.take_in(
                kept,
                kind=form.cleaned_data["kind"],
                source=form.cleaned_data["source"],
                name=os.path.basename(file.name or "file"),
                size=file.size or 0,
                user=request.user,
                corrects=corrects,
            )
        except UserError as error:
            return self._upload_page(
                request, form, error=error.message, corrects=corrects
            )
        finally:
            if file is not None:
                file.close()
            if kept is not None:
                kept.unlink(missing_ok=True)
        self.log_addition(request, one, "Uploaded.")
        return HttpResponseRedirect(reverse("admin:events_import_plan", args=[one.pk]))

    def _corrected(self, request: HttpRequest) -> Import | None:
        number = request.GET.get("corrects", "")
        if not number.isascii() or not number.isdigit():
            return None
        return Import.objects.filter(pk=int(number)).first()

    def _upload_page(
        self,
        request: HttpRequest,
        form: UploadForm,
        *,
        error: str = "",
        corrects: Import | None = None,
        status: int = 200,
    ) -> HttpResponse:
        return TemplateResponse(
            request,
            "events/imports/upload.html",
            {
                **self.admin_site.each_context(request),
                "title": "Import corrected rows" if corrects else "New import",
                "opts": self.opts,
                "form": form,
                "error": error,
                "corrects": corrects,
                "most_mib": settings.IMPORT_MAX_MIB,
                "most_bytes": most_bytes(),
                "too_large": too_large(),
                "has_sources": Source.objects.exists(),
            },
            status=status,
        )

    # Its plan

    def plan(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Which column is what; the form saves, and starts."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        one = get_object_or_404(Import.objects.select_related("source"), pk=pk)
        page = reverse("admin:events_import_change", args=[one.pk])
        if one.status != Status.UPLOADED:
            return HttpResponseRedirect(page)
        try:
            if request.method == "POST":
                tried = TriedPlan.told(one, request.POST)
                desk.set_plan(one, tried.plan)
                if "start" in request.POST and not tried.problems:
                    desk.start(one)
                    self.log_change(request, one, "Started.")
                    return HttpResponseRedirect(page)
            else:
                tried = TriedPlan.stored(one)
            tried.try_out()
        except UserError as error:
            self.message_user(request, error.message, messages.ERROR)
            return HttpResponseRedirect(page)
        except FileNotFoundError:
            raise Http404("The uploaded file is gone.") from None
        return TemplateResponse(
            request, "events/imports/plan.html", self._plan_context(request, tried)
        )

    def preview(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The first rows, read as the form says at this moment. Keeps nothing."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        one = get_object_or_404(Import.objects.select_related("source"), pk=pk)
        if one.status != Status.UPLOADED:
            return HttpResponse(status=204)  # It has been started meanwhile.
        try:
            tried = TriedPlan.told(one, request.POST)
            tried.try_out()
        except (UserError, FileNotFoundError) as error:
            text = getattr(error, "message", "The uploaded file is gone.")
            return HttpResponse(format_html('<p class="si-wrong">{}</p>', text))
        return TemplateResponse(
            request, "events/imports/_preview.html", self._plan_context(request, tried)
        )

    def _plan_context(self, request: HttpRequest, tried: TriedPlan) -> dict[str, Any]:
        is_of_customers = tried.plan.is_of_customers
        return {
            **self.admin_site.each_context(request),
            "title": tried.one.name,
            "opts": self.opts,
            "original": tried.one,
            "one": tried.one,
            "tried": tried,
            "plan": tried.plan,
            "fields": plans.fields_of(tried.plan.kind),
            "own": "attributes" if is_of_customers else "context",
            "own_label": "An attribute…" if is_of_customers else "A context field…",
            "types": [(key, label) for key, label in plans.TYPES.items() if key],
            "delimiters": DELIMITERS,
            "encodings": ENCODINGS,
            "time_zones": sorted(available_timezones()),
            "rows": [_shown(row, is_of_customers) for row in tried.shown],
            **looks(tried.one),
        }

    # Watching it

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """How far it is. Nothing is edited here."""
        one = self.get_object(request, object_id)
        if one is None:
            redirect: HttpResponse = self._get_obj_does_not_exist_redirect(
                request, self.opts, object_id
            )
            return redirect
        if not self.has_view_permission(request, one):
            raise PermissionDenied
        return TemplateResponse(
            request,
            "events/imports/import.html",
            {
                **self.admin_site.each_context(request),
                "title": one.name,
                "opts": self.opts,
                "original": one,
                "has_delete_permission": self.has_delete_permission(request, one),
                **self._watched(request, one),
            },
        )

    def show_progress(self, request: HttpRequest, pk: int) -> HttpResponse:
        one = self._seen(request, pk)
        return TemplateResponse(
            request, "events/imports/_progress.html", self._watched(request, one)
        )

    def show_cell(self, request: HttpRequest, pk: int) -> HttpResponse:
        one = self._seen(request, pk)
        return TemplateResponse(
            request,
            "events/imports/_cell.html",
            {"one": one, "anew": True, **looks(one)},
        )

    def _seen(self, request: HttpRequest, pk: int) -> Import:
        one = get_object_or_404(Import.objects.select_related("source"), pk=pk)
        if not self.has_view_permission(request, one):
            raise PermissionDenied
        return one

    def _watched(self, request: HttpRequest, one: Import) -> dict[str, Any]:
        may = self.has_add_permission(request)
        return {
            "one": one,
            "plan": plans.read_draft(one.plan) if one.plan else None,
            "may_start": may and one.status == Status.UPLOADED,
            "may_stop": may and one.is_going,
            "may_go_on": may
            and one.is_upload
            and one.status in (Status.FAILED, Status.CANCELLED),
            "may_correct": may and bool(one.errors_bytes) and not one.is_going,
            "kept": run.KEPT_REJECTED,
            "rate": rate_of(one),
            **looks(one),
        }

    def refused(self, request: HttpRequest, pk: int) -> StreamingHttpResponse:
        """The file of refused rows, as far as it counts."""
        one = self._seen(request, pk)
        if not one.errors_bytes:
            raise Http404("No row was rejected.")
        try:
            file = run.errors_path(one).open("rb")
        except FileNotFoundError:
            raise Http404("The file of rejected rows is gone.") from None
        format = plans.read_draft(one.plan).shape.format
        name = Path(one.name.removesuffix(".gz")).stem
        answer = StreamingHttpResponse(
            _upto(file, one.errors_bytes), content_type=CONTENT_TYPES[format]
        )
        answer["Content-Disposition"] = content_disposition_header(
            True, f"{name}.rejected.{format}"
        )
        answer["Content-Length"] = str(one.errors_bytes)
        return answer

    def do(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Stop it, or go on with it."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        one = get_object_or_404(Import, pk=pk)
        deeds = {"stop": (desk.cancel, "Stopped."), "go_on": (desk.go_on, "Went on.")}
        if request.method == "POST" and (deed := deeds.get(request.POST.get("do", ""))):
            try:
                deed[0](one)
            except UserError as error:
                self.message_user(request, error.message, messages.ERROR)
            else:
                self.log_change(request, one, deed[1])
        return HttpResponseRedirect(
            reverse("admin:events_import_change", args=[one.pk])
        )


def looks(one: Import) -> dict[str, Any]:
    """The state of an import as a badge, and whether to ask again."""
    text, tone = LOOK[one.status]
    return {"state": badge(text, tone), "is_going": one.is_going}


def count(number: int, what: str, one: Import) -> str:
    tone = " si-rejected" if what == "rejected" and number else ""
    return format_html(
        '<span class="sc-num{}" id="{}-{}">{}</span>', tone, what, one.pk, f"{number:,}"
    )


def rate_of(one: Import) -> int:
    """Rows a second since it was begun; 0 if that says nothing."""
    if one.started_at is None or not one.rows:
        return 0
    took = ((one.ended_at or timezone.now()) - one.started_at).total_seconds()
    return int(one.rows / took) if took >= 1 else 0


def _shown(row: Shown, is_of_customers: bool) -> dict[str, Any]:
    item = row.item if isinstance(row.item, dict) else {}
    customer = item.get("customer")
    if isinstance(customer, dict):
        customer = next(iter(customer.values()), "")
    rest = {
        key: value
        for key, value in item.items()
        if key not in ("external_id", "attributes")
    }
    return {
        "row": row,
        "id": item.get("external_id" if is_of_customers else "id", ""),
        "name": item.get("name", ""),
        "customer": customer,
        "time": item.get("occurred_at", ""),
        "gist": gist(
            {**rest, **(item.get("attributes") or {})}
            if is_of_customers
            else item.get("context"),
            size=12,
        ),
    }


def _upto(file: Any, size: int) -> Any:
    with file:
        while size and (piece := file.read(min(size, 64 * 1024))):
            size -= len(piece)
            yield piece
