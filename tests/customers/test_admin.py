"""Customers in the back office: the list, the form, and who may do what."""

from __future__ import annotations

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from customers.models import Attribute, Consent, Customer, MailingCategory
from smartcomm.core import paging
from tests import make

pytestmark = pytest.mark.django_db

LIST = "/admin/customers/customer/"
ADD = "/admin/customers/customer/add/"


FIELDS = [
    "first_name",
    "last_name",
    "birth_date",
    "gender",
    "email",
    "phone",
    "city",
    "country",
    "language",
    "time_zone",
    "registered_at_0",
    "registered_at_1",
]


def edit_url(customer: Customer) -> str:
    return reverse("admin:customers_customer_edit", args=[customer.pk])


def profile_url(customer: Customer) -> str:
    return reverse("admin:customers_customer_change", args=[customer.pk])


def form(consents: list[dict[str, str]] | None = None, **fields: str) -> dict[str, str]:
    """What the browser sends: every field, the inlines' management forms."""
    data = dict.fromkeys(FIELDS, "")
    for number, consent in enumerate(consents or []):
        data |= {f"consents-{number}-{name}": text for name, text in consent.items()}
    for prefix, total in (("consents", len(consents or [])), ("devices", 0)):
        data |= {f"{prefix}-TOTAL_FORMS": str(total), f"{prefix}-INITIAL_FORMS": "0"}
    return data | fields


@pytest.fixture
def viewer(client: Client) -> Client:
    """Staff who may look at customers, and no more."""
    user = User.objects.create_user("vera", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_customer"))
    client.force_login(user)
    return client


def ids(answer: str) -> list[str]:
    return re.findall(r'class="field-id_ [^>]*><a [^>]*>([^<]+)</a>', answer)


# the list


def test_the_list_is_searched_by_name(admin_client):
    make.customer("C-1", first_name="Anna", last_name="Berg")
    make.customer("C-2", first_name="Ben")

    answer = admin_client.get(LIST, {"q": "anna berg"}).content.decode()

    assert ids(answer) == ["C-1"]
    assert "1 customer" in answer


def test_an_invalid_address_is_marked_in_the_list(admin_client):
    make.customer("C-1", email="anna@", email_is_valid=False)
    make.customer("C-2", email="ben@example.com")

    answer = admin_client.get(LIST).content.decode()

    assert answer.count("This e-mail is not valid") == 1


@pytest.mark.parametrize(
    ("asked", "who"),
    [
        ({"email_is": "valid"}, ["C-2"]),
        ({"email_is": "invalid"}, ["C-1"]),
        ({"email_is": "none"}, ["C-3"]),
        ({"stub": "1"}, ["C-3"]),
        ({"since": "7"}, ["C-3", "C-2", "C-1"]),
    ],
)
def test_the_list_is_filtered(admin_client, asked, who):
    make.customer("C-1", email="anna@", email_is_valid=False)
    make.customer("C-2", email="ben@example.com")
    make.customer("C-3", is_stub=True)

    assert ids(admin_client.get(LIST, asked).content.decode()) == who


def test_older_and_newer_go_through_all_customers_and_back(admin_client):
    for number in range(120):
        make.customer(f"C-{number:03}")

    seen: list[str] = []
    address = LIST
    pages = []
    while address:
        answer = admin_client.get(address).content.decode()
        seen += ids(answer)
        pages.append(ids(answer))
        older = re.search(r'href="(\?[^"]*before=\d+)" rel="next"', answer)
        address = LIST + older[1] if older else ""
    newer = re.search(r'href="(\?[^"]*after=\d+)" rel="prev"', answer)
    assert newer is not None
    back = ids(admin_client.get(LIST + newer[1]).content.decode())

    assert seen == [f"C-{number:03}" for number in reversed(range(120))]
    assert back == pages[-2]
    assert "120 customers" in answer


def test_a_page_keeps_the_search_and_a_search_starts_at_the_first_page(admin_client):
    for number in range(60):
        make.customer(f"C-{number}", first_name="Anna")

    answer = admin_client.get(LIST, {"q": "anna"}).content.decode()

    assert re.search(r'href="\?q=anna&amp;before=\d+"', answer)


def test_a_page_address_that_was_mangled_shows_the_first_page(admin_client):
    make.customer("C-1")

    answer = admin_client.get(LIST, {"before": "x", "after": "²", "p": "99"})

    assert ids(answer.content.decode()) == ["C-1"]


def test_a_big_table_is_estimated_and_not_counted(admin_client, monkeypatch):
    make.customer("C-1")
    monkeypatch.setattr(paging, "estimate", lambda model: 1_234_567)

    answer = admin_client.get(LIST).content.decode()

    assert "about 1,234,567 customers" in answer


# adding and changing


def test_a_new_customer_has_normalised_contacts_and_opens_as_profile(admin_client):
    answer = admin_client.post(
        ADD,
        form(
            external_id="C-1",
            first_name="Anna",
            email="Anna@EXAMPLE.com",
            phone="0151 12345678",
            country="de",
        ),
    )

    anna = Customer.objects.get()
    assert answer.url == profile_url(anna)
    assert (anna.email, anna.email_is_valid) == ("anna@example.com", True)
    assert (anna.phone, anna.phone_is_valid) == ("+4915112345678", True)
    assert (anna.country, anna.is_stub) == ("DE", False)


def test_an_invalid_address_is_kept_marked_and_told(admin_client):
    anna = make.customer("C-1", email="anna@example.com")

    answer = admin_client.post(edit_url(anna), form(email="anna at home"), follow=True)

    anna.refresh_from_db()
    assert (anna.email, anna.email_is_valid) == ("anna at home", False)
    assert "is not a valid e-mail" in answer.content.decode()


@pytest.mark.parametrize(
    ("field", "wrong", "words"),
    [
        ("time_zone", "Mars/Base", "Europe/Berlin"),
        ("country", "QQ", "ISO 3166"),
        ("language", "German please", "BCP 47"),
        ("birth_date", "2999-01-01", "between 1850 and today"),
    ],
)
def test_what_a_source_may_not_tell_staff_may_not_write(
    admin_client, field, wrong, words
):
    page = admin_client.post(ADD, form(external_id="C-7", **{field: wrong}))
    assert words in page.context["adminform"].form.errors[field][0]
    assert wrong in page.content.decode()  # Nothing of what was written is lost.
    assert not Customer.objects.exists()


def test_country_and_language_are_kept_as_a_source_would_tell_them(admin_client):
    admin_client.post(ADD, form(external_id="C-7", country="de", language="EN_gb"))
    customer = Customer.objects.get()
    assert (customer.country, customer.language) == ("DE", "en-GB")


def test_a_change_is_recorded_with_who_made_it(admin_client, admin_user):
    anna = make.customer("C-1")

    admin_client.post(edit_url(anna), form(city="Riga"))

    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id) == (admin_user, str(anna.pk))
    assert "City" in entry.get_change_message()


def test_the_id_cannot_be_changed(admin_client):
    anna = make.customer("C-1")

    admin_client.post(edit_url(anna), form(external_id="C-2", city="Riga"))

    anna.refresh_from_db()
    assert (anna.external_id, anna.city) == ("C-1", "Riga")


def test_attributes_are_fields_of_their_type_and_others_are_kept(admin_client):
    for code, type_ in [
        ("tier", "string"),
        ("children", "number"),
        ("owner", "boolean"),
        ("card_since", "date"),
        ("gone", "string"),
    ]:
        Attribute.objects.create(code=code, type=type_)
    anna = make.customer("C-1", attributes={"gone": "x", "undeclared": [1]})

    admin_client.post(
        edit_url(anna),
        form(
            attribute_tier="gold",
            attribute_children="2",
            attribute_owner="true",
            attribute_card_since="2024-02-08",
            attribute_gone="",
        ),
    )

    anna.refresh_from_db()
    assert anna.attributes == {
        "tier": "gold",
        "children": 2,
        "owner": True,
        "card_since": "2024-02-08",
        "undeclared": [1],
    }


def test_a_list_is_edited_line_by_line_and_its_values_keep_their_types(admin_client):
    Attribute.objects.create(code="interests", type="list")
    anna = make.customer("C-1", attributes={"interests": ["tea", 7, True]})

    shown = admin_client.get(edit_url(anna)).content.decode()
    assert "tea\n7\nyes" in shown
    same = form(city="Riga", attribute_interests="tea\r\n7\r\nyes")
    admin_client.post(edit_url(anna), same)
    anna.refresh_from_db()
    assert (anna.city, anna.attributes) == ("Riga", {"interests": ["tea", 7, True]})

    other = form(attribute_interests="7\r\n\r\n jazz \r\n")
    admin_client.post(edit_url(anna), other)
    anna.refresh_from_db()
    assert anna.attributes == {"interests": [7, "jazz"]}

    refused = admin_client.post(edit_url(anna), form(attribute_interests="x\n" * 201))
    assert "At most 200 values" in refused.content.decode()
    admin_client.post(edit_url(anna), form(attribute_interests=""))
    anna.refresh_from_db()
    assert anna.attributes == {}


def test_an_attribute_of_the_wrong_type_is_refused(admin_client):
    Attribute.objects.create(code="children", type="number")
    anna = make.customer("C-1")

    answer = admin_client.post(edit_url(anna), form(attribute_children="two"))

    anna.refresh_from_db()
    assert "Enter a number." in answer.content.decode()
    assert anna.attributes == {}


def test_a_date_and_time_that_a_source_sent_survives_an_edit(admin_client):
    Attribute.objects.create(code="card_since", type="date")
    sent = "2024-02-08T10:00:00+01:00"
    anna = make.customer("C-1", attributes={"card_since": sent})

    admin_client.post(edit_url(anna), form(city="Riga", attribute_card_since=sent))

    anna.refresh_from_db()
    assert (anna.city, anna.attributes) == ("Riga", {"card_since": sent})


def test_a_consent_given_by_staff_says_so(admin_client):
    anna = make.customer("C-1")

    admin_client.post(
        edit_url(anna),
        form([{"channel": "email", "category": "", "is_granted": "on"}]),
    )

    consent = Consent.objects.get()
    assert (consent.customer, consent.is_granted) == (anna, True)
    assert consent.origin == "staff: admin"
    assert consent.changed_at is not None


def test_two_answers_to_one_question_are_refused_in_words(admin_client):
    anna = make.customer("C-1")
    yes = {"channel": "email", "category": "", "is_granted": "on"}

    answer = admin_client.post(edit_url(anna), form([yes, yes]))

    assert "two answers for the same channel" in answer.content.decode()
    assert not Consent.objects.exists()


def test_a_channel_and_a_category_on_it_are_two_questions(admin_client):
    news = MailingCategory.objects.create(code="news", name="News")
    anna = make.customer("C-1")

    admin_client.post(
        edit_url(anna),
        form(
            [
                {"channel": "email", "category": "", "is_granted": "on"},
                {"channel": "email", "category": str(news.pk)},
            ]
        ),
    )

    answers = anna.consents.order_by("pk").values_list("category", "is_granted")
    assert list(answers) == [(None, True), (news.pk, False)]


# who may do what


def test_who_may_only_view_can_not_edit(viewer):
    anna = make.customer("C-1", city="Riga")

    page = viewer.get(profile_url(anna)).content.decode()
    answer = viewer.post(edit_url(anna), form(city="Berlin"))

    anna.refresh_from_db()
    assert edit_url(anna) not in page
    assert answer.status_code == 403
    assert anna.city == "Riga"


def test_nobody_deletes_a_customer_here(admin_client):
    anna = make.customer("C-1")
    url = reverse("admin:customers_customer_delete", args=[anna.pk])

    assert admin_client.post(url, {"post": "yes"}).status_code == 403
    assert Customer.objects.exists()


def test_a_visitor_is_sent_to_the_login(client):
    anna = make.customer("C-1")

    for url in (LIST, profile_url(anna), edit_url(anna), profile_url(anna) + "x"):
        assert "/admin/login/" in client.get(url).url


def test_the_code_of_an_attribute_is_chosen_once(admin_client):
    attribute = Attribute.objects.create(code="tier")
    url = reverse("admin:customers_attribute_change", args=[attribute.pk])

    admin_client.post(url, {"code": "level", "label": "Tier", "type": "string"})

    attribute.refresh_from_db()
    assert (attribute.code, attribute.label) == ("tier", "Tier")


def test_what_staff_answer_for_a_customer_is_in_the_history(admin_client, admin_user):
    anna = make.customer("C-1")
    answer = {"channel": "email", "category": "", "is_granted": "on", "id": ""}

    admin_client.post(edit_url(anna), form([answer]))
    consent = anna.consents.get()
    data = form([{**answer, "id": str(consent.pk), "DELETE": "on"}])
    admin_client.post(edit_url(anna), data | {"consents-INITIAL_FORMS": "1"})

    assert not anna.consents.exists()
    steps = anna.consent_changes.order_by("pk")
    assert [(step.is_granted, step.origin) for step in steps] == [
        (True, f"staff: {admin_user.username}"),
        (None, f"staff: {admin_user.username}"),
    ]


def test_staff_are_told_who_else_has_a_contact(admin_client):
    from customers.models import SharedContact

    make.customer("C-1", email="a@example.com")
    anna = make.customer("C-2")

    page = admin_client.post(edit_url(anna), form(email="a@example.com"), follow=True)
    assert "“C-1” has the same e-mail." in page.content.decode()
    assert SharedContact.objects.get().value == "a@example.com"

    admin_client.post(edit_url(anna), form(email=""))
    assert not SharedContact.objects.exists()
