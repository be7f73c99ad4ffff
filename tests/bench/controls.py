"""What the link allows: iperf3 with 1, 4 and 8 flows, and the bound by arithmetic."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .data import Sizes
from .peers.interface import which
from .workloads import PAYLOAD_EVERY, Workload

FLOWS = (1, 4, 8)
IPERF3_PORT = 5201
IPERF3_GRACE_S = 15.0
PAYLOAD_OF_PACKET = 1448
"""An MTU of 1500 less the headers of IPv4 and of TCP with time stamps."""

PACKET_BYTES = 1500


@contextmanager
def iperf3_server(host: Any) -> Iterator[None]:
    command = ["iperf3", "-s", "-p", str(IPERF3_PORT)]
    with host.running(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield


def iperf3(near: Any, far: Any, flows: int, lasting_s: int, start_s: int) -> dict[str, Any]:
    """From `far` to `near`; what it does in `start_s` before is not counted."""
    done = near.run(
        [
            *("iperf3", "-c", far.ipv4, "-p", str(IPERF3_PORT), "-R", "-J"),
            *("-P", str(flows), "-t", str(lasting_s), "-O", str(start_s)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout_s=lasting_s + start_s + IPERF3_GRACE_S,
    )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise RuntimeError(f"iperf3: {answer['error']}")
    received = answer["end"]["sum_received"]
    every = sum(interval["sum"]["bytes"] for interval in answer["intervals"])
    usage = answer["end"]["cpu_utilization_percent"]
    return {
        "seconds": received["seconds"],
        "bytes": received["bytes"],
        "counted_share": min(1.0, received["bytes"] / max(1, every)),
        "complete": True,
        "client_cpu_s": usage["host_total"] / 100 * received["seconds"],
        "server_cpu_s": usage["remote_total"] / 100 * received["seconds"],
        "wrong": False,
        "error": "",
    }


def missing_iperf3() -> str:
    return "" if which("iperf3") else "program iperf3"


def goodput_bps(profile: Any) -> float:
    """TCP payload by time, all headers and framing counted."""
    share: float = PAYLOAD_OF_PACKET / (PACKET_BYTES + profile.overhead_bytes)
    rate: float = profile.rate_bps
    return rate * share


def bound_s(workload: Workload, profile: Any, sizes: Sizes) -> float | None:
    """The least time by arithmetic: round trips that cannot be avoided, and bytes at the rate.

    A request and its answer are one round trip, a connection one more. Neither slow start nor
    losses are in it, so nothing reaches it that has to begin slowly.
    """
    if not profile.rate_bps:
        return None
    wire_s = sum(length for _, length in workload.extents(sizes, 0)) * 8 / goodput_bps(profile)
    rtt_s: float = profile.rtt_s
    match workload.kind:
        case "seek":
            return None
        case "sequential" if workload.change:
            return None
        case "sequential":
            return (2 if workload.warmth == "cold" else 1) * rtt_s + wire_s
        case "random" | "demand" if workload.depth == 1:
            return rtt_s
        case "random":
            return workload.count / workload.depth * rtt_s
        case "strided" | "headers":
            return rtt_s + wire_s
        case "payloads":
            return (2 if PAYLOAD_EVERY > 1 else 1) * rtt_s + wire_s
        case "tail":
            return rtt_s / 2
        case "first" | "cold":
            return (2 if workload.warmth == "cold" else 1) * rtt_s + wire_s
    return None
