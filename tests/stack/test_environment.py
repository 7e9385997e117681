import pytest

from smartcomm.stack.environment import StartError, read_environment


def test_all_have_defaults():
    environment = read_environment({})

    assert environment.base_url == "http://127.0.0.1:8000"
    assert environment.demo == "small"
    assert environment.web_workers >= 1


def test_empty_is_as_good_as_unset():
    assert read_environment({"PORT": "", "DEMO": "", "DATABASE_URL": ""}).port == 8000


def test_the_lines_of_the_procfile_get_what_was_asked_for():
    environment = read_environment({"PORT": "9000", "WEB_WORKERS": "3"})

    assert environment.variables()["PORT"] == "9000"
    assert environment.variables()["WEB_WORKERS"] == "3"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "eighty", "PORT must be a number from 1 to 65535, not 'eighty'."),
        ("PORT", "0", "PORT must be a number"),
        ("PORT", "65536", "PORT must be a number"),
        ("PORT", "-1", "PORT must be a number"),
        ("WEB_WORKERS", "0", "WEB_WORKERS must be a number from 1 to 64, not '0'."),
        ("TRUSTED_PROXIES", "all", "TRUSTED_PROXIES must be a number from 0 to 10"),
        ("TRUSTED_PROXIES", "11", "TRUSTED_PROXIES must be a number from 0 to 10"),
        ("API_FAILURES_PER_SECOND", "few", "API_FAILURES_PER_SECOND must be a number"),
        ("DEMO", "big", "DEMO must be one of small, full, none, not 'big'."),
        ("DEBUG", "maybe", "DEBUG must be one of"),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL must be one of"),
        ("TIME_ZONE", "Berlin", "TIME_ZONE must be a name like Europe/Berlin"),
        ("TIME_ZONE", "../etc/passwd", "TIME_ZONE must be a name like"),
        ("DATABASE_URL", "mysql://db/x", "DATABASE_URL must start with one of postgr"),
        ("REDIS_URL", "localhost:6379", "REDIS_URL must start with one of redis"),
        ("AMQP_URL", "redis://broker", "AMQP_URL must start with one of amqp, amqps."),
        ("AMQP_QUEUE", "amq.direct", "AMQP_QUEUE must be a name of at most 255 bytes"),
        ("AMQP_QUEUE", "ü" * 128, "AMQP_QUEUE must be a name of at most 255 bytes"),
        ("AMQP_SOURCE", " ", "AMQP_SOURCE must be a name of 1 to 128 characters"),
        ("AMQP_KIND", "both", "AMQP_KIND must be one of customer, system, not 'both'."),
        ("AMQP_PREFETCH", "0", "AMQP_PREFETCH must be a number from 1 to 65535"),
        ("AMQP_BATCH", "1001", "AMQP_BATCH must be a number from 1 to 1000"),
        ("AMQP_BATCH_MS", "-1", "AMQP_BATCH_MS must be a number from 0 to 10000"),
        ("WEBHOOK_SECRET", "whsec_c2hvcnQ=", "WEBHOOK_SECRET must be whsec_ and 24"),
        ("WEBHOOK_CALLS_AT_ONCE", "0", "WEBHOOK_CALLS_AT_ONCE must be a number from"),
        ("EMAIL_URL", "mail.example.com", "EMAIL_URL must start with one of smtp"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(name, value, words):
    with pytest.raises(StartError, match=r"\.$") as refusal:
        read_environment({name: value})

    assert str(refusal.value).startswith(words)


def test_a_refused_address_is_not_shown_as_it_may_hold_a_password():
    with pytest.raises(StartError) as refusal:
        read_environment({"DATABASE_URL": "mysql://me:geheim@db/x"})

    assert "geheim" not in str(refusal.value)
