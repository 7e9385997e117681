"""A marketer imports a file, mends what was rejected, and imports that."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from playwright.sync_api import Page, expect

from events import tasks
from events.models import Event
from tests import make

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def staff(page: Page, settings, tmp_path) -> Page:
    """Logged in. An error of a script fails the test."""
    settings.DATA_DIR = tmp_path / "data"
    get_user_model().objects.create_superuser("demo", password="demo")
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto("/admin/")
    page.get_by_label("Username").fill("demo")
    page.get_by_label("Password").fill("demo")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("link", name="Home")).to_be_visible()
    return page


def test_from_the_upload_to_the_corrected_rows(staff: Page, tmp_path):
    make.source("Shop")
    path = tmp_path / "orders.csv"
    path.write_text(
        "No;Kunde;When;Total\n"
        "o-1;C-1;20.11.2026 10:15;49,90\n"
        "o-2;;20.11.2026 10:20;5\n"
        "o-3;C-3;20.11.2026 10:25;7,50\n"
    )

    # Upload.
    staff.goto("/admin/events/import/")
    staff.get_by_role("link", name="Add import").first.click()
    staff.get_by_label("File").set_input_files(path)
    staff.get_by_role("button", name="Upload").click()

    # Say which column is what; the rows beside it follow.
    preview = staff.locator("#si-preview")
    expect(preview).to_contain_text("Say what happened")
    staff.get_by_label("Name of the event").fill("Order paid")
    staff.get_by_label("No goes into").select_option("id")
    staff.get_by_label("Kunde goes into").select_option("customer")
    staff.get_by_label("When goes into").select_option("occurred_at")
    staff.get_by_label("Time zone of").fill("Europe/Berlin")
    staff.get_by_label("How times are").fill("%d.%m.%Y %H:%M")
    staff.get_by_label("Numbers have a comma").check()
    expect(preview).to_contain_text("2026-11-20T10:15:00+01:00")
    expect(preview).to_contain_text("total 49.9")
    expect(preview).to_contain_text("“customer” is missing")
    assert not Event.objects.exists()

    # Start, and watch a worker do it.
    staff.get_by_role("button", name="Start the import").click()
    card = staff.locator("#si-progress")
    expect(card).to_contain_text("waiting")
    tasks.run_imports()
    expect(card).to_contain_text("finished")
    expect(card.locator(".si-sum")).to_contain_text("3 rows read")
    assert Event.objects.get(external_id="o-1").context == {"total": 49.9}

    # What was rejected comes in a file; mended, it is imported.
    with staff.expect_download() as download:
        card.get_by_role("link", name="Rejected rows").click()
    rejected = tmp_path / download.value.suggested_filename
    download.value.save_as(rejected)
    assert rejected.name == "orders.rejected.csv"
    rejected.write_text(rejected.read_text().replace(";o-2;;", ";o-2;C-2;"))
    card.get_by_role("link", name="Import the corrected file").click()
    staff.get_by_label("File").set_input_files(rejected)
    staff.get_by_role("button", name="Upload").click()
    expect(preview).to_contain_text("C-2")
    staff.get_by_role("button", name="Start the import").click()
    tasks.run_imports()
    expect(card.locator(".si-sum")).to_contain_text("0 rejected")
    assert set(Event.objects.values_list("external_id", flat=True)) == {
        "o-1",
        "o-2",
        "o-3",
    }


def test_a_file_that_is_too_large_is_told_before_it_is_sent(
    staff: Page, tmp_path, settings
):
    settings.IMPORT_MAX_MIB = 1
    make.source("Shop")
    path = tmp_path / "big.csv"
    path.write_text("event,customer\n" + "Viewed,C-1\n" * 120_000)

    staff.goto("/admin/events/import/add/")
    staff.get_by_label("File").set_input_files(path)
    staff.get_by_role("button", name="Upload").click()

    expect(staff.get_by_role("alert")).to_contain_text("larger than 1 MiB")
