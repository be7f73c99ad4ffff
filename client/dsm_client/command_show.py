"""`dsm ls`, `dsm stat`, `dsm explain`: what there is, and how it is read."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

from dsm.errors import Overrun
from dsm.model import Kind, PathEstimate
from dsm_client import Region, Ring
from dsm_client import command_text as text
from dsm_client.command import complain, printable
from dsm_client.command_reach import Reach
from dsm_client.session import Described

PROBE_BYTES = 1 << 20
PROBE_BLOCKS = 256
"""`explain` reads so much, to have something to tell."""


# ── ls ──


def list_segments(reach: Reach, prefix: str, *, json: bool) -> None:
    with reach.session() as session:
        found = session.list(prefix)
    if json:
        text.write_json([text.segment_json(described) for described in found])
    elif found:
        text.write_table(("NAME", "KIND", "SIZE", "HOLDS"), [_row(d) for d in found])
    else:
        beginning = f" whose name begins with {prefix!r}" if prefix else ""
        complain(f"node {reach.address} has no segment{beginning}")


def _row(described: Described) -> tuple[str, str, str, str]:
    info = described.info
    bytes_max = info.capacity_bytes if info.kind is Kind.RING else info.size_bytes
    return info.name, info.kind.value, text.size(bytes_max), _holds(described)


def _holds(described: Described) -> str:
    info, position = described.info, described.position
    if info.kind is Kind.REGION:
        return ", ".join(filter(None, (f"version {position.version}", text.array_of(info))))
    blocks = position.head - position.tail
    if not blocks:
        return "empty"
    return f"{text.count(blocks, 'block')}, {text.size(described.held_bytes)}"


# ── stat ──


def show_segment(reach: Reach, name: str, *, json: bool) -> None:
    with reach.session() as session:
        described = session.describe(name)
        local = session.is_local
    if json:
        text.write_json({"node": reach.address, "local": local, **text.segment_json(described)})
        return
    is_ring = described.info.kind is Kind.RING
    text.write_pairs(
        [
            ("name", name),
            ("kind", described.info.kind.value),
            ("node", f"{reach.address}, {'on this host: mapped' if local else 'remote'}"),
            *(_ring_pairs(described) if is_ring else _region_pairs(described)),
            ("created", text.local_time(described.info.created_ns)),
            ("epoch", f"{described.info.epoch:016x}"),
            *_metadata_pairs(described),
        ]
    )


def _ring_pairs(described: Described) -> list[tuple[str, str]]:
    info, position = described.info, described.position
    span = f" ({position.tail} to {position.head - 1})" if position.head > position.tail else ""
    lag = f"waits up to {info.block_deadline_ms} ms for registered readers"
    return [
        ("capacity", f"{text.size(info.capacity_bytes)}, {text.count(info.slots, 'block')}"),
        ("holds", _holds(described) + span),
        ("appended", text.count(position.head, "block")),
        ("header", f"the first {info.header_bytes} bytes of a block"),
        ("when full", lag if info.block_deadline_ms else "the oldest blocks are overwritten"),
    ]


def _region_pairs(described: Described) -> list[tuple[str, str]]:
    info = described.info
    array = text.array_of(info)
    return [
        ("size", f"{text.size(info.size_bytes)} ({info.size_bytes:,} bytes)"),
        *([("array", array)] if array else []),
        ("version", str(described.position.version)),
        ("pages", f"{info.pages:,} of {text.size(info.page_bytes)}, {info.buffers} buffers"),
    ]


def _metadata_pairs(described: Described) -> list[tuple[str, str]]:
    metadata = described.info.metadata.items()
    lines = [f"{printable(key)} = {printable(value)}" for key, value in metadata]
    return [("metadata", "\n".join(lines))] if lines else []


# ── explain ──


def explain(reach: Reach, name: str, access: str, *, json: bool) -> None:
    with reach.session() as session:
        handle = session.open(name, access=access)
        started, before = time.monotonic(), session.stats()
        read_bytes, what = _probe(handle)
        elapsed_s, after = time.monotonic() - started, session.stats()
        words, path = handle.explain(), session.path()
    round_trips, wire_bytes = (
        after[key] - before[key] for key in ("round_trips", "bytes_received")
    )
    if json:
        probe: dict[str, Any] = {"what": what, "read_bytes": read_bytes, "elapsed_s": elapsed_s}
        probe |= {"round_trips": round_trips, "wire_bytes": wire_bytes}
        value: dict[str, Any] = {"node": reach.address, "segment": name, "access": access}
        value |= {"mapped": handle.is_mapped, "explain": words.split("\n"), "probe": probe}
        text.write_json(value | {"path": text.path_json(path)})
        return
    text.write_pairs(
        [
            ("segment", f"{name} at {reach.address}"),
            ("reads", "\n".join(printable(line) for line in words.split("\n"))),
            *([("path", _path_in_words(path))] if handle.is_mapped else []),
            ("probe", f"{what}, {text.size(read_bytes)}, in {text.duration(elapsed_s)}"),
            (
                "wire",
                f"{text.size(wire_bytes)} received, "
                f"waited for {text.count(round_trips, 'round trip')}",
            ),
        ]
    )


def _path_in_words(path: PathEstimate) -> str:
    """What is known of the path, or that it is not."""
    rate = text.rate(path.rate_bps) if path.rate_bps else "rate not measured"
    return f"{text.duration(path.rtt_s)} round trip, {rate}"


def _probe(handle: Ring | Region) -> tuple[int, str]:
    """A short read; bytes, and what was read."""
    if isinstance(handle, Region):
        length = min(PROBE_BYTES, handle.nbytes)
        handle.read(0, length)
        return length, "read the beginning"
    first = max(handle.tail, handle.head - PROBE_BLOCKS)
    read_bytes = blocks = 0
    try:
        for block in islice(handle.blocks(first, handle.head), PROBE_BLOCKS):
            read_bytes += len(block.header or block.data)
            blocks += 1
            if read_bytes >= PROBE_BYTES:
                break
    except Overrun:
        pass  # the producer is faster than this: what was read will do
    what = "header" if handle.info.header_bytes else "block"
    return read_bytes, f"read {text.count(blocks, what)}"
