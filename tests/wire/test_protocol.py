"""Addresses, and what two sides agree on when they meet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsm.errors import UsageError
from dsm.wire.address import is_loopback, parse_url, split_host_port
from dsm.wire.protocol import (
    FRAME_BYTES_MIN,
    VERSION_MAX,
    VERSION_MIN,
    Limits,
    agree_version,
)
from dsm.wire.v1 import wire_pb2 as pb


@pytest.mark.parametrize(
    ("url", "address", "segment"),
    [
        ("dsm://host:7401", "host:7401", ""),
        ("host:7401", "host:7401", ""),
        ("dsm://host", "host:7400", ""),
        ("dsm://host:7401/capture/eth0", "host:7401", "capture/eth0"),
        ("dsm://[::1]:7401/a", "[::1]:7401", "a"),
        ("[::1]", "[::1]:7400", ""),
        ("dsm://10.0.0.1/a", "10.0.0.1:7400", "a"),
    ],
)
def test_urls(url: str, address: str, segment: str) -> None:
    assert parse_url(url) == (address, segment)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "dsm://",
        "http://host:1",
        "host:port",
        "host:99999",
        "u@host:1",
        "[::1",
        "host:-1",
        "h?q",
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UsageError):
        parse_url(url)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        host, port = split_host_port(text)
    except UsageError:
        return
    assert host
    assert 0 <= port <= 65535


def test_loopback() -> None:
    assert [is_loopback(h) for h in ("localhost", "127.0.0.9", "::1")] == [True] * 3
    assert [is_loopback(h) for h in ("10.0.0.1", "example.org", "0.0.0.0", "")] == [False] * 4


limits = st.builds(
    Limits, st.integers(FRAME_BYTES_MIN, 1 << 30), st.integers(1, 9999), st.integers(1, 9999)
)


@given(limits, limits)
def test_the_stricter_limit_holds_whoever_is_asked(one: Limits, other: Limits) -> None:
    agreed = one.agree(other)
    assert agreed == other.agree(one)
    assert agreed.agree(one) == agreed
    assert Limits.from_pb(agreed.to_pb()) == agreed


def test_limits_of_the_other_side() -> None:
    assert Limits.from_pb(pb.Limits()) == Limits()
    with pytest.raises(ValueError, match="at least"):
        Limits.from_pb(pb.Limits(frame_bytes_max=FRAME_BYTES_MIN - 1))


def test_versions() -> None:
    assert agree_version(VERSION_MIN, VERSION_MAX) == VERSION_MAX
    assert agree_version(0, 999) == VERSION_MAX
    assert agree_version(VERSION_MAX + 1, VERSION_MAX + 5) is None
    assert agree_version(0, VERSION_MIN - 1) is None
