"""Imports in the back office: who may do what, and what the pages refuse."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from events import tasks
from events.importing import run
from events.models import Event, Import
from tests import make

pytestmark = pytest.mark.django_db

GOOD = b"id,event,customer,price\no-1,Viewed,C-1,5\no-2,Viewed,,5\n"
ADD = "/admin/events/import/add/"


@pytest.fixture(autouse=True)
def _own_directory(settings, tmp_path):
    settings.DATA_DIR = tmp_path / "data"


def staff(*permissions: str) -> Client:
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def upload(client: Client, content: bytes = GOOD, **more):
    data = {"kind": "events", "source": make.source().pk, **more}
    data["file"] = SimpleUploadedFile("orders.csv", content)
    return client.post(ADD, data)


def page(one: Import, name: str) -> str:
    return reverse(f"admin:events_import_{name}", args=[one.pk])


def kept() -> list[Path]:
    found = run.directory()
    return list(found.iterdir()) if found.exists() else []


def test_an_upload_is_kept_looked_at_started_and_imported(admin_client):
    answer = upload(admin_client, gzip.compress(GOOD))
    one = Import.objects.get()
    assert answer.headers["Location"] == page(one, "plan")
    assert (one.status, one.name, one.is_upload) == ("uploaded", "orders.csv", True)
    assert not Event.objects.exists()

    shown = admin_client.get(page(one, "plan")).content.decode()
    assert "“customer” is missing" in shown
    assert not Event.objects.exists()
    admin_client.post(page(one, "plan"), {"start": "1"})
    tasks.run_imports()

    one.refresh_from_db()
    assert (one.status, one.imported, one.rejected) == ("finished", 1, 1)
    answer = admin_client.get(page(one, "refused"))
    assert 'filename="orders.rejected.csv"' in answer.headers["Content-Disposition"]
    content = b"".join(answer.streaming_content)
    assert len(content) == one.errors_bytes
    assert content.endswith(b",o-2,Viewed,,5\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[1]", "This is a JSON list"),
        (b"", "The file is empty"),
        (b"a,a\n1,2\n", "Two columns are called"),
    ],
)
def test_what_cannot_be_read_is_told_on_the_page_and_leaves_nothing(
    admin_client, content, words
):
    answer = upload(admin_client, content)

    assert answer.status_code == 200
    assert words in answer.content.decode()
    assert not Import.objects.exists()
    assert kept() == []


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(admin_client, settings):
    settings.IMPORT_MAX_MIB = 1
    for size in (1024**2 + 10, 1024**2 + 1024 * 512):
        answer = upload(admin_client, b"a,b\n" * (size // 4 + 1))
        assert answer.status_code == 413
        assert "larger than 1 MiB" in answer.content.decode()
    assert kept() == []


def test_an_upload_without_its_token_is_refused():
    User.objects.create_superuser("root", password="x")
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.get())

    assert upload(client).status_code == 403
    assert not Import.objects.exists()


def test_a_plan_that_does_not_do_is_not_started(admin_client):
    upload(admin_client, b"when,who\n1,2\n")
    one = Import.objects.get()

    answer = admin_client.post(page(one, "plan"), {"start": "1"})

    assert "Say what happened" in answer.content.decode()
    one.refresh_from_db()
    assert one.status == "uploaded"


def test_who_may_only_view_watches_and_changes_nothing(admin_client):
    upload(admin_client)
    one = Import.objects.get()
    viewer = staff("view_import")

    for name in ("change", "progress", "cell"):
        assert viewer.get(page(one, name)).status_code == 200
    for name in ("plan", "preview", "do"):
        assert viewer.post(page(one, name), {"do": "stop"}).status_code == 403
    assert upload(viewer).status_code == 403
    one.refresh_from_db()
    assert one.status == "uploaded"


def test_an_import_is_stopped_and_gone_on_with(admin_client):
    upload(admin_client)
    one = Import.objects.get()
    admin_client.post(page(one, "plan"), {"start": "1"})

    admin_client.post(page(one, "do"), {"do": "stop"})
    tasks.run_imports()
    one.refresh_from_db()
    assert (one.status, one.rows) == ("cancelled", 0)

    admin_client.post(page(one, "do"), {"do": "go_on"})
    tasks.run_imports()
    one.refresh_from_db()
    assert (one.status, one.rows) == ("finished", 2)


def test_deleting_an_import_deletes_what_was_kept_of_it(admin_client):
    upload(admin_client)
    one = Import.objects.get()
    admin_client.post(page(one, "plan"), {"start": "1"})
    assert admin_client.post(page(one, "delete"), {"post": "yes"}).status_code == 403
    tasks.run_imports()
    assert len(kept()) == 2

    admin_client.post(page(one, "delete"), {"post": "yes"})

    assert not Import.objects.exists()
    assert kept() == []
    assert Event.objects.count() == 1
