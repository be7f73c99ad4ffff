"""Measures an emulated path with programs that know nothing of it, against what was asked for.

`ping` for the round trip, `iperf3` for rate and loss. Each figure is taken by itself: the round
trip without jitter, the rate by one cubic connection with raised socket limits and without losses,
for what is calibrated is the link, and not how a congestion control lives with it (BBR leaves
some per cent of any link unused). Loss is that of 100,000 small datagrams.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from statistics import median
from typing import Any

from .host import Host
from .namespaces import HostConfig, NotPermitted
from .profiles import Profile
from .validity import Verdict, judge
from .wan import Wan

TOOLS = {"ping": "iputils-ping", "iperf3": "iperf3"}  # program: Debian's package
TCP_SHARE = 1448 / 1500  # of an IP packet with time stamps is payload
MTU_BYTES = 1500
RATE_OFF_MAX = 0.03
RTT_OFF_MAX_S, RTT_OFF_MAX_SHARE = 0.0005, 0.01
LOSS_OFF_MAX = 0.10
CPU_SHARE_MAX = 0.25  # of one core, at 1 Gbit/s
PINGS = 20
DATAGRAMS = 100_000
DATAGRAM_BYTES = 100
SOCKET_BYTES = 4 << 20
DATAGRAMS_PER_S_MAX = 20_000
RAISED_BYTES = 128 << 20
RAMP_S, RAMP_RTTS = 2.0, 25  # left out of the rate: slow start and what it overshoots


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a calibration. `allowed` is the largest deviation, `None` if not judged."""

    name: str
    unit: str
    asked: float
    measured: float
    allowed: float | None

    @property
    def deviation(self) -> float:
        return self.measured - self.asked

    @property
    def good(self) -> bool:
        return self.allowed is None or abs(self.deviation) <= self.allowed


@dataclass(frozen=True, slots=True)
class Calibration:
    """All figures of one profile, and whether the machine was quiet enough for them."""

    profile: str
    backend: str
    figures: tuple[Figure, ...]
    verdict: Verdict

    @property
    def good(self) -> bool:
        return all(figure.good for figure in self.figures)


class _Unusable(Exception):
    """A measurement that says nothing about the link."""


def calibrate(profile: Profile, *, backend: str = "auto", measure_s: float = 8.0) -> Calibration:
    """Takes `measure_s` and some tens of round trips; leaves out the profile's blips.

    Raises `NotPermitted`, `ConfigError`.
    """
    profile = replace(profile, blips=None)
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise NotPermitted(f"calibrating needs {tool}: apt-get install {package}")
    raised = (4096, 131072, RAISED_BYTES)
    host = HostConfig(wmem_bytes=raised, rmem_bytes=raised)
    figures: list[Figure] = []
    with Wan(profile, backend=backend, host=host) as wan:
        far = wan.hosts["b"]
        if far.namespace is None:
            raise NotPermitted("only hosts of their own can be calibrated: tun or tc, not relay")
        reasons: list[str] = []
        with far.running(
            ["iperf3", "-s", "-J"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ):
            time.sleep(0.5)
            for step in (_round_trip, _loss, _rate):
                wan.reset()
                try:
                    figures += step(wan, profile, measure_s)
                except _Unusable as error:
                    reasons.append(str(error))
                reasons += judge(wan.statistics(), profile.rtt_s).reasons
        return Calibration(
            profile.name, wan.backend, tuple(figures), Verdict(tuple(dict.fromkeys(reasons)))
        )


def _round_trip(wan: Wan, profile: Profile, _measure_s: float) -> Iterator[Figure]:
    near, far = wan.hosts["a"], wan.hosts["b"]
    interval_s = max(0.05, min(0.2, profile.rtt_s))
    wan.change({"jitter_s": 0.0})
    said = near.run(
        ["ping", "-c", str(PINGS), "-i", f"{interval_s:.3f}", far.ipv4],
        stdout=subprocess.PIPE,
        text=True,
        timeout_s=120,
    ).stdout
    wan.change({"jitter_s": wan.topology.links["a", "b"].there.jitter_s})
    times_ms = sorted(float(found) for found in re.findall(r"time=([0-9.]+)", said))
    if not times_ms:
        raise NotPermitted(f"ping got no answer from {far.ipv4}")
    allowed_ms = (RTT_OFF_MAX_S + RTT_OFF_MAX_SHARE * profile.rtt_s) * 1e3
    judged = None if profile.trace_there else allowed_ms  # waits for an opportunity besides
    yield Figure("idle RTT, median", "ms", profile.rtt_s * 1e3, median(times_ms), judged)


def _loss(wan: Wan, profile: Profile, _measure_s: float) -> Iterator[Figure]:
    path = wan.topology.links["a", "b"]
    near, far = wan.hosts["a"], wan.hosts["b"]
    rate_bps = path.there.mean_rate_bps or 1e9
    packet_bits = (DATAGRAM_BYTES + 28 + profile.overhead_bytes) * 8
    per_s = min(DATAGRAMS_PER_S_MAX, 0.5 * rate_bps / packet_bits)
    missed = far.call(_full_sockets)
    answer = _iperf3(
        near,
        far,
        *("-u", "-l", str(DATAGRAM_BYTES), "-k", str(DATAGRAMS)),
        *("-b", str(round(per_s * DATAGRAM_BYTES * 8)), "-w", str(_socket_bytes())),
    )
    missed = far.call(_full_sockets) - missed
    if missed:
        raise _Unusable(f"the receiver was late: {missed} datagrams found its socket full")
    total = answer["end"]["sum"]
    measured = total["lost_packets"] / total["packets"]
    asked = path.there.mean_loss
    # Chance alone makes sqrt(n): below some hundred losses, three times that is allowed.
    chance = 3 * math.sqrt(asked / total["packets"])
    allowed = 100 * max(LOSS_OFF_MAX * asked, chance)
    judged = None if profile.trace_there else allowed  # a full queue loses besides
    yield Figure("loss", "%", asked * 100, measured * 100, judged)


def _socket_bytes() -> int:
    """As much as a datagram socket may hold here, so that a busy receiver loses little."""
    return min(SOCKET_BYTES, int(FilePath("/proc/sys/net/core/rmem_max").read_text()))


def _full_sockets() -> int:
    """Datagrams that arrived on this host and found their socket full: no link has lost them."""
    names, values = (
        line.split()
        for line in FilePath("/proc/thread-self/net/snmp").read_text().splitlines()
        if line.startswith("Udp:")
    )
    return int(values[names.index("RcvbufErrors")])


def _rate(wan: Wan, profile: Profile, measure_s: float) -> Iterator[Figure]:
    if profile.rate_bps is None and not profile.trace_there:
        yield from _unshaped(wan, measure_s)
        return
    wan.change({"loss": 0.0, "bursts": None})
    ramp_s = RAMP_S + RAMP_RTTS * profile.rtt_s
    answer = _iperf3(
        wan.hosts["a"],
        wan.hosts["b"],
        *("-C", "cubic", "-O", str(math.ceil(ramp_s)), "-t", str(math.ceil(measure_s))),
        "--get-server-output",
    )
    # What waits behind a lost packet arrives in a lump when that is repaired: hence the median.
    seconds = [each["sum"] for each in answer["server_output_json"]["intervals"]]
    measured_bps = median(each["bits_per_second"] for each in seconds if not each["omitted"])
    rate_bps = wan.topology.links["a", "b"].there.mean_rate_bps
    assert rate_bps is not None
    share = TCP_SHARE * MTU_BYTES / (MTU_BYTES + profile.overhead_bytes)
    asked = rate_bps * share / 1e6
    judged = None if profile.trace_there else RATE_OFF_MAX * asked
    yield Figure("TCP goodput", "Mbit/s", asked, measured_bps / 1e6, judged)
    cpu_share = wan.statistics().get("cpu_share", math.nan)
    at_most = CPU_SHARE_MAX * 100
    yield Figure("emulator CPU, at most", "% of a core", at_most, cpu_share * 100, None)


def _unshaped(wan: Wan, measure_s: float) -> Iterator[Figure]:
    answer = _iperf3(wan.hosts["a"], wan.hosts["b"], "-t", str(math.ceil(measure_s)))
    measured_bps = answer["end"]["sum_received"]["bits_per_second"]
    yield Figure("TCP goodput, at least", "Mbit/s", 3000.0, measured_bps / 1e6, None)


def _iperf3(near: Host, far: Host, *options: str) -> dict[str, Any]:
    done = near.run(
        ["iperf3", "-c", far.ipv4, "-J", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout_s=300,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise NotPermitted(f"iperf3: {answer['error']}")
    return answer
