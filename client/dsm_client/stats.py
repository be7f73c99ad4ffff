"""What one handle did: as numbers for a dashboard, and in words for a person.

Counters only grow, but for the two that say so; the figures of the path are as of now, and the
session's (`Session.stats` counts what crossed its wire).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, TypedDict

from dsm.model import Access, PathEstimate

if TYPE_CHECKING:
    from dsm_client.replica import Replica


class HandleStats(TypedDict):
    """What `handle.stats()` gives. Of a mapped handle only `method` says anything: "mapped"."""

    method: str
    """The access method in force."""
    reads: int
    """Each range or block of a list is one."""
    hits: int
    """Reads that were answered at once, from the shadow."""
    waits: int
    """Times a reader waited for the network; a list waits once."""
    late: int
    """Of those: for what had been requested ahead of the reader, but not soon enough."""
    bytes_received: int
    """Payloads of frames, after decompression."""
    prefetched_bytes: int
    """Of those: what nobody waited for when it was asked for."""
    wasted_bytes: int
    """Of those: given up unread (the reader went elsewhere, it was overwritten, it made room), at
    the mean size of what was prefetched. Shrinks when a reader comes back and reads it."""
    unread_bytes: int
    """Of those: here, and not read so far, whether given up or not. Grows and shrinks."""
    checksum_failures: int
    codec: str
    """Of the newest frame of this segment: raw, lz4 or blosc (bit-shuffled LZ4)."""
    wire_ratio: float
    """Bytes on the wire for each byte of payload, over the segment's last frames; at most 1."""
    pattern: str
    """Of the reads: sequential, strided, backward, random or unknown."""
    window_bytes: int
    """The most that is kept in flight."""
    rate_bps: float
    """Bits a second that the path delivers; 0: not measured yet."""
    rtt_s: float
    phase: str
    """Of the path's estimate: startup, drain or cruise."""
    lanes: int
    """Connections that carry bulk."""


def stats_of(replica: Replica) -> HandleStats:
    """As of now; any thread."""
    counts, ahead = replica.counts, replica.fetcher.ahead
    unit_bytes = counts.prefetched_bytes / max(1, ahead.arrived_units)
    now, path = replica.transport.now(), replica.transport.estimate()
    received = replica.transport.puller.received(replica.info.name)
    return HandleStats(
        method=replica.method.value,
        reads=counts.reads,
        hits=counts.hits,
        waits=counts.waits,
        late=ahead.late,
        bytes_received=counts.bytes_received,
        prefetched_bytes=counts.prefetched_bytes,
        wasted_bytes=round(ahead.wasted_units * unit_bytes),
        unread_bytes=round(ahead.unread_units * unit_bytes),
        checksum_failures=counts.checksum_failures,
        codec=received.codec.value,
        wire_ratio=received.ratio,
        pattern=replica.planner.pattern(now).kind,
        window_bytes=path.window_bytes,
        rate_bps=path.rate_bps,
        rtt_s=path.rtt_s,
        phase=path.phase,
        lanes=replica.transport.puller.bulk_lanes,
    )


def stats_of_mapped() -> HandleStats:
    """Nothing is counted where nothing is fetched."""
    return HandleStats(
        method="mapped",
        reads=0,
        hits=0,
        waits=0,
        late=0,
        bytes_received=0,
        prefetched_bytes=0,
        wasted_bytes=0,
        unread_bytes=0,
        checksum_failures=0,
        codec="raw",
        wire_ratio=1.0,
        pattern="unknown",
        window_bytes=0,
        rate_bps=0.0,
        rtt_s=0.0,
        phase="",
        lanes=0,
    )


def explained(replica: Replica) -> str:
    """Why it reads as it does, in words: method, reason, path, what came of it."""
    stats, path = stats_of(replica), replica.transport.estimate()
    auto = replica.access is Access.AUTO
    how = "chosen by auto" if auto else "asked for"
    lines = [f"{replica.info.name}: {stats['method']} ({how})"]
    if auto:
        now = replica.transport.now()
        lines.append(replica.policy.explain(path, now, pattern=replica.planner.pattern(now)))
    lines += [_path(stats, path, replica.transport.control.congestion), _reads(stats)]
    if replica.fetcher.usual_bytes:
        lines.append(_habit(replica.fetcher.usual_bytes))
    if stats["bytes_received"]:
        lines.append(_bytes(stats))
    return "\n".join(lines)


def _path(stats: HandleStats, path: PathEstimate, congestion: str) -> str:
    trip = f"{path.rtt_s * 1e3:.1f} ms round trip" if path.rtt_s else "round trip not measured yet"
    if not path.rate_bps:
        text = f"path: {trip}, rate not measured yet"
    else:
        text = (
            f"path: {path.rate_bps / 1e6:.1f} Mbit/s, {trip}: {_size(path.bdp_bytes)} fill it, "
            f"up to {_size(path.window_bytes)} are kept in flight ({path.phase})"
        )
    sends = f"; the node's sockets send with {congestion}" if congestion else ""
    return f"{text} on {stats['lanes']} lanes{sends}"


def _reads(stats: HandleStats) -> str:
    late = f" ({stats['late']} for what was already on its way)" if stats["late"] else ""
    return (
        f"reads: {stats['reads']}, {stats['hits']} answered from the shadow at once; waited for "
        f"the network {stats['waits']} times{late}; pattern {stats['pattern']}"
    )


def _habit(usual_bytes: float) -> str:
    far = "to their ends" if usual_bytes == inf else f"for {_size(usual_bytes)} or more"
    return f"habit: handles before this one were read {far}, so it was read ahead from the start"


def _bytes(stats: HandleStats) -> str:
    text = f"bytes: {_size(stats['bytes_received'])} received"
    if stats["prefetched_bytes"]:
        text += f", {_size(stats['prefetched_bytes'])} of it before anybody waited for it"
        text += f"; {_size(stats['wasted_bytes'])} of that was given up unread"
    return f"{text}; {_compression(stats)}"


def _compression(stats: HandleStats) -> str:
    if stats["codec"] == "raw":
        return "not compressed"
    return f"compressed with {stats['codec']} to {stats['wire_ratio']:.0%} on the wire"


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
