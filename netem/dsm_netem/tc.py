"""A link's directions as arguments of the kernel's netem, and what is left out of it.

Its `limit` counts packets, and all that are inside, also those that are only delayed: it must
hold rate x delay besides the queue, or the delay line drops what the link should carry.
"""

from __future__ import annotations

import math
from typing import Any

from .config import LinkConfig
from .topology import Path

PACKET_BYTES = 1500
UNLIMITED_PACKETS = 1_000_000  # for links without a rate or a queue limit: some GB of memory


def netem_arguments(config: LinkConfig) -> dict[str, Any]:
    """For pyroute2's `tc("add", "netem", ...)`: microseconds, per cent, bytes per second."""
    arguments: dict[str, Any] = {
        "delay": round((config.delay_s + config.jitter_s) * 1e6),  # netem's is the mean
        "jitter": round(config.jitter_s * 1e6),
        "loss": config.mean_loss * 100,
        "duplicate": config.duplicate * 100,
        "prob_corrupt": config.corrupt * 100,
        "limit": _limit_packets(config),
    }
    if config.outage == "drop":
        arguments["loss"] = 100
    rate_bps = config.mean_rate_bps
    if rate_bps is not None:
        arguments["rate"] = round(rate_bps / 8)
        arguments["packet_overhead"] = config.overhead_bytes
    return arguments


def left_out(path: Path) -> tuple[str, ...]:
    """What netem, as it is driven here, does not do of what was asked for."""
    lost = []
    for config in (path.there, path.back):
        if config.bursts:
            lost.append("loss in bursts (their mean rate instead)")
        if config.trace:
            lost.append("delivery trace (its mean rate instead)")
        if config.jitter_interval_s:
            lost.append("drifting jitter (per packet instead)")
        if config.reorder:
            lost.append("reordering")
        if config.corrupt_silent:
            lost.append("silent flips")
    if path.timeline.changes:
        lost.append("scheduled changes")
    return tuple(dict.fromkeys([*lost, "its own lateness"]))


def _limit_packets(config: LinkConfig) -> int:
    rate_bps = config.mean_rate_bps
    if rate_bps is None or config.queue_bytes is None:
        return UNLIMITED_PACKETS
    delayed_bytes = rate_bps / 8 * (config.delay_s + 2 * config.jitter_s)
    return math.ceil((delayed_bytes + config.queue_bytes) / PACKET_BYTES) + 1
