"""What a text becomes for one customer and one event, and what it tells it lacked."""

import html
import re
from contextlib import suppress
from datetime import UTC, date, datetime

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from customers.models import Customer
from messaging import language, render
from messaging.language import TemplateError
from messaging.render import Draft, Rendered

ANNA = Customer(
    external_id="C-1",
    first_name="Anna",
    last_name="Berg",
    email="anna@example.com",
    phone="+4915112345678",
    birth_date=date(1990, 5, 1),
    city="Berlin",
    country="DE",
    language="de",
    attributes={"tier": "gold", "shoe": {"size": 42}, "hollow": ""},
)
STUB = Customer(external_id="C-2")
BAG = {
    "name": "Bag <new>",
    "price": 49.9,
    "amount": "1234.5",
    "size": 38,
    "gift": False,
    "left": 0,
    "note": None,
    "spaces": "  ",
    "huge": 1e20,
    "when": "2026-11-20T23:30:00+03:00",
    "address": {"city": "Rome", "street": None},
    "lines": [{"name": "Cap", "n": 2}, {"name": "Hat", "n": 1}],
    "uneven": [{"name": "Cap"}, {"n": 1}],
    "none": [],
}
OCCURRED = datetime(2026, 11, 20, 10, 15, tzinfo=UTC)


def show(content: Draft, customer: Customer = ANNA, **context: object) -> Rendered:
    return render.render(
        content,
        customer=customer,
        context={**BAG, **context},
        event_name="Order paid",
        occurred_at=OCCURRED,
    )


def sms(text: str, customer: Customer = ANNA, **context: object) -> Rendered:
    return show(Draft("sms", text=text), customer, **context)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dear {{ client.firstName }}", "Dear Anna"),
        ("{{client.firstName}} {{client.lastName}}", "Anna Berg"),
        ("{{ client.fullName }}, {{ client.email }}", "Anna Berg, anna@example.com"),
        ("{{ client.city }} {{ client.country }}", "Berlin DE"),
        ("{{ client.externalId }} {{ client.phone }}", "C-1 +4915112345678"),
        ("{{ client.birthDate }}", "1990-05-01"),
        ("{{ client.birthDate | date: '%d.%m.' }}", "01.05."),
        ("{{ client.attributes.tier }}", "gold"),
        ("{{ client.attributes.shoe.size }}", "42"),
        ("{{ client.properties.first_name }}", "Anna"),
        ("{{ client.properties.full_name }}", "Anna Berg"),
        ("{{ client.properties.city }}", "Berlin"),
        ("{{ client.event.name }}", "Order paid"),
        ("{{ client.event.occurredAt }}", "2026-11-20 10:15"),
        ("{{client.eventContext.name}}", "Bag <new>"),
        ("{{ client.eventContext.price }}", "49.9"),
        ("{{ client['eventContext']['price'] }}", "49.9"),
        ("{{ client.eventContext.address.city }}", "Rome"),
        ("{{ client.eventContext.size }}", "38"),
        ("{{ client.eventContext.gift }}", "false"),
        ("{{ client.eventContext.left }}", "0"),
        ("{{ client.eventContext.huge }}", "100000000000000000000"),
        ("{{ client.eventContext.address }}", '{"city": "Rome", "street": null}'),
        ("{{ client.eventContext.lines[1].name }}", "Hat"),
        ("{{ client.eventContext.lines | size }}", "2"),
        ("{{ client.eventContext.lines | map: 'name' | join: ', ' }}", "Cap, Hat"),
        (
            "{% for l in client.eventContext.lines %}{{ l.n }}x {{ l.name }};"
            "{% endfor %}",
            "2x Cap;1x Hat;",
        ),
        ("{{ client.eventContext.amount | money: 'EUR' }}", "1.234,50\xa0€"),
        ("{{ client.eventContext.amount | money }}", "1.234,50"),
        ("{{ client.eventContext.when | date: '%d.%m. %H:%M' }}", "20.11. 20:30"),
        ("{{ 'now' | date: '%Y' }}", "2031"),
        ("{% if client.eventContext.left == 0 %}none left{% endif %}", "none left"),
        ("{% if client.eventContext.gift == false %}no{% endif %}", "no"),
        ("{% assign sep = '' %}a{{ sep }}b", "ab"),
        ("{% capture x %}{% endcapture %}a{{ x }}b", "ab"),
        ("no variables at all", "no variables at all"),
    ],
)
@time_machine.travel("2031-01-02T12:00:00Z", tick=False)
def test_a_text_shows_facts_of_the_customer_and_of_the_event(text, expected):
    shown = sms(text)
    assert (shown.body, shown.missing) == (expected, [])


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        # Unknown to the event; null; blank.
        ("for {{ client.eventContext.nope }}", ["client.eventContext.nope"]),
        ("for {{ client.eventContext.note }}", ["client.eventContext.note"]),
        ("for {{ client.eventContext.spaces }}", ["client.eventContext.spaces"]),
        (
            "in {{ client.eventContext.address.zip }}",
            ["client.eventContext.address.zip"],
        ),
        ("in {{ client.eventContext.nope.deep }}", ["client.eventContext.nope.deep"]),
        ("{{ client.attributes.hollow }}", ["client.attributes.hollow"]),
        ("{{ client.eventContext.name.length }}", ["client.eventContext.name.length"]),
        # A filter does not make it something.
        ("{{ client.eventContext.nope | upcase }}", ["client.eventContext.nope"]),
        ("{{ client.eventContext.nope | append: ' €' }}", ["client.eventContext.nope"]),
        ("{{ 'a' | append: client.eventContext.nope }}", ["client.eventContext.nope"]),
        ("{{ client.eventContext.nope | plus: 1 }}", ["client.eventContext.nope"]),
        ("{{ client.eventContext.nope | money }}", ["client.eventContext.nope"]),
        ("{{ client.eventContext.nope | date: '%d' }}", ["client.eventContext.nope"]),
        (
            "{{ client.eventContext.name | remove: 'Bag <new>' }}",
            ["client.eventContext.name | remove: 'Bag <new>'"],
        ),
        # Nor does another name.
        (
            "{% assign x = client.eventContext.nope %}{{ x }}",
            ["client.eventContext.nope"],
        ),
        ("{% echo client.eventContext.nope %}", ["client.eventContext.nope"]),
        ("{% cycle client.eventContext.nope, 'b' %}", ["client.eventContext.nope"]),
        (
            "{% capture x %}{{ client.eventContext.nope }}{% endcapture %}",
            ["client.eventContext.nope"],
        ),
        # Loops.
        (
            "{% for i in client.eventContext.nope %}x{% endfor %}",
            ["client.eventContext.nope"],
        ),
        (
            "{% for i in client.eventContext.uneven %}{{ i.name }}{% endfor %}",
            ["i.name"],
        ),
        ("{{ client.eventContext.none }}", ["client.eventContext.none"]),
        # Each is told once, in the order of the text.
        (
            "{{ client.eventContext.b }}{{ client.eventContext.a }}"
            "{{ client.eventContext.b }}",
            ["client.eventContext.b", "client.eventContext.a"],
        ),
        # A default may be missing itself.
        (
            "{{ client.eventContext.nope | default: client.eventContext.note }}",
            ["client.eventContext.note"],
        ),
    ],
)
def test_a_variable_without_a_value_is_told_and_never_silently_blank(text, missing):
    assert sms(text).missing == missing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ client.eventContext.nope | default: 'you' }}", "you"),
        ("{{ client.eventContext.note | default: 'you' }}", "you"),
        ("{{ client.eventContext.spaces | default: 'you' }}", "you"),
        ("{{ client.eventContext.nope | upcase | default: 'you' }}", "you"),
        ("{{ client.eventContext.nope | default: 'you' | upcase }}", "YOU"),
        ("[{{ client.eventContext.nope | default: '' }}]", "[]"),
        ("{% if client.eventContext.nope %}a{% else %}b{% endif %}", "b"),
        ("{% if client.eventContext.spaces %}a{% else %}b{% endif %}", "b"),
        ("{% unless client.eventContext.nope %}b{% endunless %}", "b"),
        ("{% if client.eventContext.nope == nil %}b{% endif %}", "b"),
        ("{% if client.eventContext.nope == blank %}b{% endif %}", "b"),
        ("{% if client.eventContext.nope == empty %}b{% endif %}", "b"),
        ("{% if client.eventContext.nope == '' %}b{% endif %}", "b"),
        ("{% if client.eventContext.nope != blank %}a{% endif %}b", "b"),
        ("{% if client.eventContext.name != blank %}a{% endif %}", "a"),
        ("{% if client.eventContext.name == blank %}b{% else %}a{% endif %}", "a"),
        (
            "{% if client.eventContext.gift %}g{% elsif client.eventContext.nope == ''"
            " %}b{% endif %}",
            "b",
        ),
        (
            "{% if client.eventContext.price > 9 and client.eventContext.nope == nil %}"
            "b{% endif %}",
            "b",
        ),
        ("{% if client.eventContext.nope == 'x' %}a{% else %}b{% endif %}", "b"),
        ("{% if client.eventContext.nope > 5 %}a{% else %}b{% endif %}", "b"),
        ("{% if client.eventContext.nope contains 'x' %}a{% else %}b{% endif %}", "b"),
        (
            "{% case client.eventContext.nope %}{% when 'x' %}a"
            "{% else %}b{% endcase %}",
            "b",
        ),
        (
            "{% for i in client.eventContext.nope %}a{% else %}b{% endfor %}",
            "b",
        ),
        ("{% for i in client.eventContext.none %}a{% endfor %}b", "b"),
        (
            "{% assign n = client.eventContext.nope | size %}"
            "{% if n > 0 %}a{% endif %}b",
            "b",
        ),
    ],
)
def test_what_the_text_provides_for_itself_is_not_missing(text, expected):
    shown = sms(text)
    assert (shown.body, shown.missing) == (expected, [])


def test_a_customer_of_whom_nothing_is_known_is_missed_like_the_event():
    shown = sms("Dear {{ client.firstName }}", STUB)
    assert shown.missing == ["client.firstName"]
    assert sms("Dear {{ client.firstName | default: 'you' }}", STUB).body == "Dear you"


def test_without_an_event_its_variables_are_missing():
    shown = render.render(
        Draft("sms", text="{{ client.event.name }} {{ client.eventContext.name }}"),
        customer=ANNA,
        context=None,
        event_name=None,
        occurred_at=None,
    )
    assert shown.missing == ["client.event.name", "client.eventContext.name"]


def test_values_are_escaped_in_the_html_of_an_email_and_only_there():
    texts = {"subject": "{{ client.eventContext.name }}"}
    texts |= {"html": "<b>{{ client.eventContext.name }}</b>", "text": texts["subject"]}
    email = show(Draft("email", **texts))
    assert email.html == "<b>Bag &lt;new&gt;</b>"
    assert (email.subject, email.body) == ("Bag <new>", "Bag <new>")
    assert sms(texts["subject"]).body == "Bag <new>"
    push = show(Draft("push", title=texts["subject"], text=texts["subject"]))
    assert (push.subject, push.body) == ("Bag <new>", "Bag <new>")


def test_no_filter_lets_a_value_be_html():
    for used in ("safe", "escapejs"):
        with pytest.raises(TemplateError, match=used):
            language.parse("{{ client.eventContext.name | " + used + " }}", html=True)


def test_a_subject_stays_on_one_line():
    email = show(
        Draft(
            "email", subject="{{ client.eventContext.x }}\r\n{% if true %}!{% endif %}"
        ),
        x="Hi\r\nBcc: all@example.com",
    )
    assert email.subject == "Hi Bcc: all@example.com !"


def test_an_email_without_text_gets_one_from_its_html():
    email = show(
        Draft(
            "email",
            subject="x",
            html="<html><head><style>p {color: red}</style></head><body><h1>Hi</h1>"
            "<p>It is <b>{{ client.eventContext.name }}</b>&nbsp;again.</p>"
            '<a href="https://example.com/?a=1&amp;b=2">Buy</a></body></html>',
        )
    )
    assert email.body == (
        "Hi\nIt is Bag <new> again.\nBuy (https://example.com/?a=1&b=2)"
    )


def test_push_keeps_link_and_image():
    push = show(
        Draft(
            "push",
            title="T",
            text="t",
            link="https://example.com/{{ client.eventContext.size }}",
            image="https://example.com/{{ client.eventContext.nope }}.png",
        )
    )
    assert push.link == "https://example.com/38"
    assert push.missing == ["client.eventContext.nope"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a\n{{ client.x | }", 2, "Line 2: "),
        ("a\nb\n{% if client.firstName %}x", 3, "{% if %} is never closed"),
        ("{% for x in client.eventContext.l %}\n", 1, "{% for %} is never closed"),
        ("{% endif %}", 1, "endif"),
        ("a\n{{ client.firstName | shout }}", 2, "there is no filter “shout”"),
        ("{% include 'secrets' %}", 1, "include"),
        ("{% render 'secrets' %}", 1, "render"),
        ("{{", 1, "Line 1"),
    ],
)
def test_what_is_not_liquid_is_refused_with_its_line(text, line, words):
    with pytest.raises(TemplateError, match=re.escape(words)) as caught:
        language.parse(text)
    assert caught.value.line == line
    assert caught.value.message.endswith(".")


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in (1..1000000000) %}x{% endfor %}",
        "{% for i in (1..200) %}{% for j in (1..200) %}x{% endfor %}{% endfor %}",
        "{% assign x = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' %}{% for i in (1..60) %}"
        "{% assign x = x | append: x %}{% endfor %}",
        "{{ (1..1000000000) | join }}",
        "{{ client.eventContext.long | replace: 'a', client.eventContext.long }}",
        "{% for i in (1..100) %}{{ client.eventContext.long }}{% endfor %}",
    ],
)
def test_a_text_that_runs_away_is_stopped(text):
    with pytest.raises(TemplateError, match="too large or runs too long"):
        sms(text, long="a" * 30_000)


def test_a_filter_that_cannot_do_its_work_fails_and_names_the_field():
    with pytest.raises(TemplateError, match="“Bag <new>” is not an amount") as caught:
        show(Draft("email", subject="s", html="{{ client.eventContext.name | money }}"))
    assert caught.value.field == "html"


@pytest.mark.parametrize("word", language.RESERVED_WORDS.split("|"))
def test_a_field_may_be_called_like_a_word_of_liquid(word):
    name = f"client.eventContext.{word}"
    shown = sms(
        "{{ " + name + " }}{% if " + name + " == 'x' %}!{% endif %}", **{word: "x"}
    )
    assert (shown.body, shown.missing) == ("x!", [])
    assert sms("{{" + name + "}}").missing == [name]
    assert render.variables("{{ " + name + " }}") == {name}
    assert sms("{{ 'a." + word + "' }} b." + word).body == f"a.{word} b.{word}"


def test_python_is_out_of_reach():
    for name in ("__class__", "pk", "_state", "save", "attributes.__class__"):
        shown = sms("{{ client." + name + " }}")
        assert (shown.body, shown.missing) == ("", [f"client.{name}"])


def test_the_variables_of_a_text_are_told_by_their_dotted_names():
    text = (
        "{{client.firstName}} {{ client['eventContext'].name | default: client.city }}"
        "{% for l in client.eventContext.lines %}{{ l.name }}{{ forloop.index }}"
        "{% endfor %}{% assign own = 1 %}{{ own }}{% if client.attributes.tier %}"
        "{% endif %}{{ client.eventContext.lines[0].name }}"
    )
    assert render.variables(text) == {
        "client.firstName",
        "client.eventContext.name",
        "client.city",
        "client.eventContext.lines",
        "client.attributes.tier",
        "client.eventContext.lines.0.name",
    }


@pytest.mark.parametrize(
    ("channel", "fields", "complaints"),
    [
        ("sms", {"text": "Hi"}, []),
        ("sms", {"text": " "}, [("text", "Write the text.")]),
        ("email", {"subject": "s", "html": "h"}, []),
        ("email", {"subject": "s", "text": "t"}, []),
        ("email", {"text": "t"}, [("subject", "Write the subject.")]),
        ("email", {"subject": "s"}, [("html", "Write the HTML or text.")]),
        ("push", {"title": "t"}, [("text", "Write the text.")]),
        (
            "sms",
            {"text": "{{ client.fristName }}"},
            [
                (
                    "text",
                    "There is no variable client.fristName. "
                    "Did you mean client.firstName?",
                )
            ],
        ),
        (
            "sms",
            {"text": "{{ firstName }}"},
            [
                (
                    "text",
                    "There is no variable firstName. Did you mean client.firstName?",
                )
            ],
        ),
        (
            "sms",
            {"text": "{{ price }}"},
            [
                (
                    "text",
                    "There is no variable price. "
                    "Did you mean client.eventContext.price?",
                )
            ],
        ),
        (
            "push",
            {"title": "t", "text": "{{"},
            [("text", "Line 1: a “{{” is not closed with “}}”.")],
        ),
        (
            "sms",
            {"text": "Hello {{ }}"},
            [("text", "Between “{{” and “}}” stands no variable.")],
        ),
        (
            "sms",
            {"text": "Hello\n{% if client.city"},
            [("text", "Line 2: a “{%” is not closed with “%}”.")],
        ),
    ],
)
def test_what_is_wrong_with_a_content_is_told_by_field(channel, fields, complaints):
    found = render.problems(channel, fields)
    assert [(problem.field, problem.message) for problem in found] == complaints


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(value=JSON)
def test_whatever_an_event_carries_is_shown_or_told_missing(value):
    shown = sms("[{{ client.eventContext.x }}]", x=value)
    blank = not shown.body[1:-1].strip()
    assert blank == bool(shown.missing)


@given(value=JSON)
def test_whatever_an_event_carries_is_never_html(value):
    email = show(
        Draft("email", subject="s", html="<p>{{ client.eventContext.x }}</p>"), x=value
    )
    inside = email.html.removeprefix("<p>").removesuffix("</p>")
    assert not set(inside) & set("<>\"'")
    plain = sms("{{ client.eventContext.x }}", x=value).body
    assert html.unescape(inside).strip() == plain or not plain


@given(text=st.text(alphabet="{}%|. abcliεnt\n'\"=:", max_size=40))
def test_any_text_is_either_liquid_or_refused(text):
    with suppress(TemplateError):
        sms(text)


@pytest.mark.parametrize(
    "text",
    [
        '{{ client.eventContext.strange | date: "%Y" }}',
        "{% for line in client.eventContext.lines limit: client.eventContext.low %}"
        "{{ line.name }}{% endfor %}",
    ],
)
def test_a_value_that_fits_nowhere_is_a_refusal_in_words(text):
    with pytest.raises(TemplateError, match=r"\.$"):
        sms(text, strange="0001-01-01T00:00:00+14:00", low=-1e308)
