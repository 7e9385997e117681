"""Where requests come from, and the networks that they may come from."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartcomm.core.addresses import (
    MAX_NETWORKS,
    client_address,
    is_within,
    neighbourhood,
    read_networks,
)
from smartcomm.core.errors import Invalid


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("203.0.113.7", "203.0.113.7"),
        (" 203.0.113.7/32 ", "203.0.113.7"),
        ("203.0.113.7/24", "203.0.113.0/24"),
        ("203.0.113.0/255.255.255.0", "203.0.113.0/24"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("127.0.0.1", "127.0.0.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("2001:db8:1::/32", "2001:db8::/32"),
        ("fd00::/8", "fd00::/8"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
    ],
)
def test_a_network_is_kept_in_one_way_of_writing(written, kept):
    assert read_networks([written]) == [kept]


def test_each_network_is_kept_once():
    assert read_networks(["10.1.0.0/16", "10.1.2.3/16", "10.2.0.1"]) == [
        "10.1.0.0/16",
        "10.2.0.1",
    ]


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("", "is no address"),
        ("shop.example.com", "is no address"),
        ("203.0.113", "is no address"),
        ("203.0.113.256", "is no address"),
        ("203.0.113.0/33", "is no address"),
        ("203.0.113.01", "is no address"),
        ("٢.0.0.1", "is no address"),
        ("2001:db8::/129", "is no address"),
        ("0.0.0.0/0", "is every address"),
        ("::/0", "is every address"),
        ("::ffff:0:0/96", "is every address"),
        ("0.0.0.0/1", "too broad"),
        ("64.0.0.0/7", "too broad"),
        ("2000::/3", "too broad"),
        ("2001::/15", "too broad"),
        ("0.0.0.0", "no place"),
        ("224.0.0.0/4", "too broad"),
        ("224.0.0.1", "no place"),
        ("255.255.255.255", "no place"),
        ("::", "no place"),
        ("ff02::1", "no place"),
    ],
)
def test_a_network_that_protects_nothing_or_is_none_is_refused(written, sentence):
    with pytest.raises(Invalid, match=sentence) as refusal:
        read_networks(["10.0.0.1", written])

    assert refusal.value.field == "allowed_networks"
    assert refusal.value.message.endswith(".")


def test_too_many_networks_are_refused():
    with pytest.raises(Invalid, match="at most 100"):
        read_networks(f"10.0.{n}.0/24" for n in range(MAX_NETWORKS + 1))


@pytest.mark.parametrize(
    ("address", "networks", "within"),
    [
        ("203.0.113.7", ["203.0.113.7"], True),
        ("203.0.113.8", ["203.0.113.7"], False),
        ("203.0.113.8", ["10.0.0.0/8", "203.0.113.0/24"], True),
        ("2001:db8::9", ["2001:db8::/32"], True),
        ("2001:db9::9", ["2001:db8::/32"], False),
        ("203.0.113.7", ["2001:db8::/32"], False),
        ("", ["203.0.113.7"], False),
        ("unix:", ["203.0.113.7"], False),
        ("203.0.113.7", ["nonsense"], False),
        ("203.0.113.7", ["nonsense", "203.0.113.7"], True),
    ],
)
def test_an_address_lies_in_a_network_or_not(address, networks, within):
    assert is_within(address, networks) is within


@given(
    address=st.ip_addresses(v=4) | st.ip_addresses(v=6, network="2000::/3"),
    bits=st.integers(8, 32),
)
def test_an_address_lies_in_every_network_made_of_it(address, bits):
    network = ipaddress.ip_network(f"{address}/{bits}", strict=False)

    assert is_within(str(address), [str(network)])


# Behind proxies


def seen(remote: str, forwarded: str | None = None) -> str:
    meta = {"REMOTE_ADDR": remote}
    if forwarded is not None:
        meta["HTTP_X_FORWARDED_FOR"] = forwarded
    return client_address(meta)


@pytest.mark.parametrize("forged", ["10.0.0.1", "10.0.0.1, 10.0.0.2", "", "x"])
def test_without_proxies_of_ours_nothing_that_a_caller_says_counts(forged):
    assert seen("198.51.100.4", forged) == "198.51.100.4"


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (1, "203.0.113.7", "203.0.113.7"),
        # The caller wrote the first; our proxy appended the second.
        (1, "10.0.0.1, 203.0.113.7", "203.0.113.7"),
        (2, "10.0.0.1, 203.0.113.7, 192.0.2.1", "203.0.113.7"),
        (2, "203.0.113.7, 192.0.2.1", "203.0.113.7"),
        # It did not come by way of both.
        (2, "203.0.113.7", "198.51.100.4"),
        (1, None, "198.51.100.4"),
        (1, "", "198.51.100.4"),
        (1, "203.0.113.7,", "198.51.100.4"),
        (1, "203.0.113.7:4711", "203.0.113.7"),
        (1, "[2001:db8::1]:4711", "2001:db8::1"),
        (1, "[2001:db8::1]", "2001:db8::1"),
        (1, "2001:DB8::1", "2001:db8::1"),
        (1, "fe80::1%eth0", "fe80::1"),
        (1, "::ffff:203.0.113.7", "203.0.113.7"),
        (1, "unknown", "unknown"),
    ],
)
def test_behind_proxies_the_client_is_whom_the_outermost_of_ours_talked_with(
    settings, proxies, forwarded, address
):
    settings.TRUSTED_PROXIES = proxies

    assert seen("198.51.100.4", forwarded) == address


def test_what_is_no_address_is_told_cut_short():
    assert seen("x" * 500) == "x" * 60


def test_all_addresses_of_one_machine_count_as_one():
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff:1")
    assert neighbourhood("2001:db8::1") != neighbourhood("2001:db8:0:1::1")
    assert neighbourhood("203.0.113.7") == "203.0.113.7"
