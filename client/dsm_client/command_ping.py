"""`dsm ping`: round trips, and the rate at which a path really moves bytes.

The rate cannot be had from small messages: it is measured by reading a segment, not mapped and not
compressed, into a shadow that is thrown away.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from dsm.model import Kind
from dsm_client import Region, Session
from dsm_client import command_text as text
from dsm_client.command_blocks import held
from dsm_client.command_reach import Reach
from dsm_client.session import Described

PAUSE_S = 0.02
"""Between round trips, so that they do not measure each other."""

MOVE_S = 3.0
"""The most time that is spent on the rate; slow start over 200 ms is over in half of that."""

PIECE_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes that really crossed the path."""

    segment: str
    bytes: int
    elapsed_s: float
    rate_bps: float
    """The best over about a round trip, so that start-up does not count."""


def ping(reach: Reach, segment: str, *, count: int, bytes_max: int, json: bool) -> None:
    """`segment`: what the rate is measured with; empty, the one that holds most."""
    with reach.session(map_local=False, compress=False) as session:
        trips = [_pause_and_ping(session, number) for number in range(count)]
        moved, why = None, "moving nothing was asked for"
        if bytes_max:
            chosen = session.describe(segment) if segment else _fullest(session.list())
            why = "there is no segment with data to move"
            if chosen is not None and _held_bytes(chosen):
                moved = _move(session, chosen.info.name, bytes_max)
    if json:
        _write_json(reach, trips, moved)
        return
    low, middle, high = (text.duration(f(trips)) for f in (min, statistics.median, max))
    pairs = [
        ("node", reach.address),
        ("rtt", f"min {low}, median {middle}, max {high} ({text.count(count, 'round trip')})"),
        ("rate", f"unknown: {why}" if moved is None else _in_words(moved)),
    ]
    text.write_pairs(pairs)


def _pause_and_ping(session: Session, number: int) -> float:
    if number:
        time.sleep(PAUSE_S)
    return session.ping()


def _in_words(moved: Moved) -> str:
    how = f"{text.size(moved.bytes)} of {moved.segment} in {text.duration(moved.elapsed_s)}"
    return f"{text.rate(moved.rate_bps)} ({how})"


def _write_json(reach: Reach, trips: list[float], moved: Moved | None) -> None:
    value = {
        "node": reach.address,
        "rtt_s": {
            "min": min(trips),
            "median": statistics.median(trips),
            "max": max(trips),
            "samples": trips,
        },
        "rate_bps": None if moved is None else round(moved.rate_bps),
        "moved": None
        if moved is None
        else {"segment": moved.segment, "bytes": moved.bytes, "elapsed_s": moved.elapsed_s},
    }
    text.write_json(value)


# ── rate ──


def _held_bytes(described: Described) -> int:
    is_ring = described.info.kind is Kind.RING
    return described.held_bytes if is_ring else described.info.size_bytes


def _fullest(found: list[Described]) -> Described | None:
    return max(found, key=_held_bytes, default=None)


def _move(session: Session, name: str, bytes_max: int) -> Moved:
    before, started = session.stats()["bytes_received"], time.monotonic()
    moved_bytes, elapsed_s = 0, 0.0
    for _ in _pieces(session, name, bytes_max):
        moved_bytes = session.stats()["bytes_received"] - before
        elapsed_s = time.monotonic() - started
        if moved_bytes >= bytes_max or elapsed_s >= MOVE_S:
            break
    mean_bps = moved_bytes * 8 / max(elapsed_s, 1e-9)
    return Moved(name, moved_bytes, elapsed_s, max(mean_bps, session.path().rate_bps))


def _pieces(session: Session, name: str, bytes_max: int) -> Iterator[None]:
    """Read the segment from its beginning, a piece at a time."""
    with session.open(name, access="prefetch") as handle:
        handle.hint("sequential")
        if isinstance(handle, Region):
            for offset in range(0, handle.nbytes, PIECE_BYTES):
                handle.read(offset, min(PIECE_BYTES, handle.nbytes - offset))
                yield
            return
        for _ in held(
            handle, handle.tail, handle.head, whole=True, on_lag="skip", on_gap=lambda gap: None
        ):
            yield
