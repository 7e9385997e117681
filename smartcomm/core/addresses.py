"""Where requests come from, and the networks that they may come from."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from django.conf import settings

from smartcomm.core.errors import Invalid

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_NETWORKS = 100

#: A network with fewer bits than that is no limit, but a slip.
FEWEST_BITS = {4: 8, 6: 16}

#: Local addresses of IPv6, which are handed out as fd00::/8.
LOCAL = ipaddress.IPv6Network("fc00::/7")
MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


# What staff write


def read_networks(texts: Iterable[str]) -> list[str]:
    """Networks as they are kept: each once, in one way of writing. Raises Invalid.

    An address is a network of one: 203.0.113.7.
    """
    found: dict[str, None] = {}
    for text in texts:
        network = _read_network(text)
        is_one = network.prefixlen == network.max_prefixlen
        found[str(network.network_address if is_one else network)] = None
    if len(found) > MAX_NETWORKS:
        raise Invalid(
            f"{len(found)} networks are too many. List at most {MAX_NETWORKS}; a "
            "network such as 203.0.113.0/24 stands for all its addresses.",
            field="allowed_networks",
        )
    return list(found)


def _read_network(text: str) -> Network:
    text = text.strip()
    try:
        network = _plain(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise _invalid(
            f"“{text[:60]}” is no address and no network. Write 203.0.113.7, "
            "203.0.113.0/24 or 2001:db8::/32."
        ) from error
    if network.prefixlen == 0:
        raise _invalid(
            f"“{text}” is every address there is. Leave the list empty to let requests "
            "come from anywhere."
        )
    fewest = FEWEST_BITS[network.version]
    is_local = isinstance(network, ipaddress.IPv6Network) and network.subnet_of(LOCAL)
    if network.prefixlen < fewest and not is_local:
        raise _invalid(
            f"“{text}” is too broad to protect anything. Name a network of /{fewest} "
            "or narrower."
        )
    if network.is_multicast or network.is_unspecified or _is_reserved(network):
        raise _invalid(f"“{text}” is no place that a request can come from.")
    return network


def _is_reserved(network: Network) -> bool:
    return network.version == 4 and network.is_reserved


def _invalid(sentence: str) -> Invalid:
    return Invalid(sentence, field="allowed_networks")


def _plain(network: Network) -> Network:
    """IPv4 that is written as IPv6, as IPv4."""
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(MAPPED):
        first = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network((int(first or 0), network.prefixlen - 96))
    return network


# What a request shows


def client_address(meta: Mapping[str, Any]) -> str:
    """Where a request came from, as far as we know it first hand.

    Anybody can send an X-Forwarded-For with anything in it; a proxy appends to it
    whom it talked with. So of the entries only the last are true: as many as there
    are proxies of ours in front (TRUSTED_PROXIES), and the first of these is the
    client. Without proxies of ours there is nothing to believe in it.
    """
    address = str(meta.get("REMOTE_ADDR") or "")
    proxies: int = settings.TRUSTED_PROXIES
    if proxies:
        told = str(meta.get("HTTP_X_FORWARDED_FOR") or "").split(",")
        # Fewer entries than proxies: it did not come by way of all of them.
        if len(told) >= proxies and told[-proxies].strip():
            address = told[-proxies]
    return _in_one_way(address.strip())


@lru_cache(maxsize=4096)
def _in_one_way(text: str) -> str:
    address = _read_address(text)
    return text[:60] if address is None else str(address)


def _read_address(text: str) -> Address | None:
    """An address, also with a port (203.0.113.7:4711, [2001:db8::1]:4711) or a zone."""
    host = text
    if text.startswith("["):
        host = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        host = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def is_within(address: str, networks: Sequence[str]) -> bool:
    """Whether an address, as `client_address` tells it, lies in one of the networks.

    What cannot be read as an address is in none, and what cannot be read as a network
    has nobody in it.
    """
    return _is_within(address, tuple(networks))


@lru_cache(maxsize=4096)
def _is_within(address: str, networks: tuple[str, ...]) -> bool:
    read = _read_address(address)
    return read is not None and any(read in network for network in _networks(networks))


@lru_cache(maxsize=256)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    found = []
    for text in texts:
        try:
            found.append(_plain(ipaddress.ip_network(text, strict=False)))
        except ValueError:
            continue
    return tuple(found)


def neighbourhood(address: str) -> str:
    """What stands for one client when it is counted: of IPv6 the whole /64.

    One machine may choose among all the addresses of its /64.
    """
    read = _read_address(address)
    if isinstance(read, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(read) >> 64 << 64, 64)))
    return address
