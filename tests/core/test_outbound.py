"""Calls to addresses that people have typed: where they may go, and how long."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from smartcomm.core import outbound
from smartcomm.core.outbound import AddressRefused, NoAnswer, post, read_target
from tests.receiver import Reply, receiving


@pytest.fixture
def receiver():
    with receiving() as found:
        yield found


def call(receiver, *, url="", **more):
    more.setdefault("internal", [receiver.host])
    return post(url or receiver.url(), b"{}", {}, **more)


def leads_to(monkeypatch, *answers: list[str]):
    """Let names lead to these addresses: the first look-up, the second, and so on."""
    asked: list[str] = []

    def getaddrinfo(host, port, *args, **kwargs):
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port),
            )
            for address in found
        ]

    names = {**vars(socket), "getaddrinfo": getaddrinfo}
    monkeypatch.setattr(outbound, "socket", SimpleNamespace(**names))
    return asked


# Addresses


@pytest.mark.parametrize(
    ("url", "receiver", "path"),
    [
        ("https://example.com", "example.com:443", "/"),
        ("https://Example.COM./a?b=c", "example.com:443", "/a?b=c"),
        ("https://example.com:8443/x", "example.com:8443", "/x"),
        (
            "https://xn--bcher-kva.example/%C3%A4",
            "xn--bcher-kva.example:443",
            "/%C3%A4",
        ),
        ("https://[2a00:1450::1]/", "[2a00:1450::1]:443", "/"),
    ],
)
def test_an_address_is_taken_apart(url, receiver, path):
    target = read_target(url)
    assert (target.receiver, target.path) == (receiver, path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://exa mple.com/",
        "https://example.com/a b",
        "https://example.com/\r\nX-Evil: 1",
        "https://bücher.example/",
        "https://anna:secret@example.com/",
        "https://example.com@10.0.0.1/",
        "https://example.com/#part",
        "https://example.com:99999/",
        "https://example.com:0/",
        "https://[::1/",
        "https://exam\\ple.com/",
        "https://example.com/" + "a" * 2_000,
    ],
)
def test_what_is_no_address_is_refused_in_a_sentence(url):
    with pytest.raises(AddressRefused, match=r"\w"):
        read_target(url)


CLOSED = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.8.8.8",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.5",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2001::1",
    "2002:7f00:1::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("text", CLOSED)
def test_what_is_not_on_the_open_internet_is_not_called(text, monkeypatch):
    address = ipaddress.ip_address(text)
    assert outbound.is_closed(address)
    literal = f"https://[{text}]/" if ":" in text else f"https://{text}/"
    with pytest.raises(AddressRefused, match="not on the open internet"):
        read_target(literal)
    leads_to(monkeypatch, ["1.1.1.1", text])
    with pytest.raises(AddressRefused, match=r"“evil.example” leads to"):
        post("https://evil.example/", b"", {})


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1"]
)
def test_the_open_internet_is_open(text):
    assert not outbound.is_closed(ipaddress.ip_address(text))


def test_https_only_unless_an_operator_has_named_the_host():
    with pytest.raises(AddressRefused, match="by https only"):
        read_target("http://example.com/")
    for internal in (["example.com"], ["example.com:80"]):
        assert read_target("http://example.com/", internal=internal).port == 80
    with pytest.raises(AddressRefused):
        read_target("http://example.com/", internal=["example.com:8080", "ample.com"])


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f.1", "2130706433", "0"])
def test_other_ways_of_writing_this_machine_lead_here_as_well(host, receiver):
    port = receiver.server_address[1]
    with pytest.raises((AddressRefused, NoAnswer)) as refused:
        post(f"https://{host}:{port}/", b"", {})
    assert "leads" in str(refused.value)
    assert receiver.calls == []


# Names that lead elsewhere


def test_a_name_is_looked_up_once_and_what_was_checked_is_what_is_called(
    receiver, monkeypatch
):
    """The name leads to a good address first, then into the own network."""
    with receiving("127.0.0.2") as inside:
        inside_port = inside.server_address[1]
        asked = leads_to(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
        # As if the first receiver stood on the open internet.
        monkeypatch.setattr(
            outbound, "is_closed", lambda address: str(address) != "127.0.0.1"
        )
        port = receiver.server_address[1]
        monkeypatch.setattr(outbound, "_trust", lambda: _Plain())
        answer = post(f"https://rebind.example:{port}/x", b"{}", {})
        assert answer.status == 200
        assert asked == ["rebind.example"]
        assert receiver.calls[0].headers["host"] == f"rebind.example:{port}"

        # And the second look-up, of another call, is checked anew.
        with pytest.raises(AddressRefused, match=r"127\.0\.0\.2"):
            post(f"https://rebind.example:{inside_port}/x", b"{}", {})
        assert inside.calls == []


class _Plain:
    """TLS that leaves the line as it is."""

    def wrap_socket(self, line, *, server_hostname):
        assert server_hostname == "rebind.example"
        return line


def test_the_next_address_is_tried_where_one_is_dead(receiver, monkeypatch):
    leads_to(monkeypatch, ["127.0.0.9", "127.0.0.1"])
    port = receiver.server_address[1]
    answer = post(f"http://two.example:{port}/", b"{}", {}, internal=["two.example"])
    assert answer.status == 200


def test_a_name_that_leads_nowhere_is_worth_another_try():
    with pytest.raises(NoAnswer, match="leads nowhere"):
        post("https://nowhere.invalid/", b"", {})


# Answers


def test_an_answer_comes_whole(receiver):
    receiver.reply = Reply(201, b'{"left": 3}', {"X-Shop": "Paris"})
    answer = call(receiver)
    assert (answer.status, answer.body, answer.is_cut) == (201, b'{"left": 3}', False)
    assert answer.headers["x-shop"] == "Paris"
    assert receiver.calls[0].headers["content-length"] == "2"


def test_redirects_are_answers(receiver):
    with receiving() as other:
        receiver.reply = Reply(307, headers={"Location": other.url()})
        assert call(receiver).status == 307
        assert other.calls == []


def test_of_a_huge_answer_no_more_is_read_than_is_kept(receiver):
    receiver.reply = Reply(body=b"x" * 50_000_000)
    begun = time.monotonic()
    answer = call(receiver)
    assert (len(answer.body), answer.is_cut) == (outbound.MAX_ANSWER, True)
    assert time.monotonic() - begun < 2


def test_an_answer_that_breaks_off_is_none(receiver):
    receiver.reply = Reply(body=b'{"left": 3}', cut_at=4)
    with pytest.raises(NoAnswer, match="dropped in the middle"):
        call(receiver)


def test_what_listens_nowhere_is_told_without_waiting(receiver):
    with pytest.raises(NoAnswer, match="cannot be reached: Connection refused"):
        post("http://127.0.0.1:1/", b"", {}, internal=["127.0.0.1"])


def test_what_is_no_http_is_told(receiver):
    with socket.create_server(("127.0.0.1", 0)) as odd:
        port = odd.getsockname()[1]

        def answer():
            line, _ = odd.accept()
            line.recv(1000)
            line.sendall(b"SSH-2.0-OpenSSH\r\n")
            line.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(NoAnswer, match="did not answer"):
            post(f"http://127.0.0.1:{port}/", b"", {}, internal=["127.0.0.1"])
        thread.join()


def test_a_receiver_that_does_not_answer_is_given_up(receiver):
    receiver.reply = Reply(seconds=1.5)
    begun = time.monotonic()
    with pytest.raises(NoAnswer, match=r"within 0\.5 seconds"):
        call(receiver, seconds=0.5)
    assert time.monotonic() - begun < 1


def test_one_that_drips_is_given_up_as_well(receiver):
    receiver.reply = Reply(body=b"x" * 100, drips=0.1)
    begun = time.monotonic()
    with pytest.raises(NoAnswer, match=r"within 0\.5 seconds"):
        call(receiver, seconds=0.5)
    assert time.monotonic() - begun < 1


# TLS


@pytest.fixture
def secure(receiver, tmp_path):
    """The receiver with a certificate for good.example that we trust."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
         "/CN=good.example", "-addext", "subjectAltName=DNS:good.example",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    receiver.socket = context.wrap_socket(receiver.socket, server_side=True)
    return ssl.create_default_context(cafile=str(certificate))


def test_the_certificate_must_be_for_the_name_though_an_address_is_called(
    receiver, secure, monkeypatch
):
    leads_to(monkeypatch, ["127.0.0.1"])
    monkeypatch.setattr(outbound, "_trust", lambda: secure)
    port = receiver.server_address[1]
    hosts = ["good.example", "bad.example"]
    good = post(f"https://good.example:{port}/", b"{}", {}, internal=hosts)
    assert good.status == 200
    with pytest.raises(NoAnswer, match="cannot be trusted"):
        post(f"https://bad.example:{port}/", b"{}", {}, internal=hosts)
    assert len(receiver.calls) == 1


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(receiver, secure):
    port = receiver.server_address[1]
    with pytest.raises(NoAnswer, match="cannot be trusted"):
        post(f"https://localhost:{port}/", b"{}", {}, internal=["localhost"])
    assert receiver.calls == []
