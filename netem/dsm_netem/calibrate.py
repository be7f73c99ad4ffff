"""Measures an emulated path with programs that know nothing of it, against what was asked for.

`ping` for the round trip, `iperf3` for rate and loss. Each figure is taken by itself, on a path
that has nothing else of the profile: the round trip without jitter, the rate by cubic connections
with raised socket limits and without losses, for what is calibrated is the link, and not how a
congestion control lives with it (BBR leaves some per cent of any link unused).

A delivery trace repeats, so any time of one period sees each of its opportunities once: what
passes in a period is known by arithmetic. Several connections keep its queue from running empty.

Loss is that of 100,000 small datagrams. Where that would be a handful, TCP's retransmissions are
counted, too, on a link without a rate or a delay, which millions of segments pass in seconds.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from statistics import median
from typing import Any

from .host import Host
from .namespaces import HostConfig, NotPermitted
from .profiles import Profile
from .trace import Trace
from .validity import Verdict, judge
from .wan import Wan

TOOLS = {"ping": "iputils-ping", "iperf3": "iperf3"}  # program: Debian's package
SEGMENT_BYTES = 1448  # of TCP with time stamps, at an MTU of 1500
RATE_OFF_MAX = 0.03
RTT_OFF_MAX_S, RTT_OFF_MAX_SHARE = 0.0005, 0.01
LOSS_OFF_MAX = 0.10
CPU_SHARE_MAX = 0.25  # of one core, at 1 Gbit/s
UNSHAPED_MIN_BPS = 3e9
PINGS = 20
DATAGRAMS = 100_000
DATAGRAM_BYTES = 100
QUEUE_BYTES = 64 << 20  # a sender that was held up catches up at once, and no queue may drop that
LOSSES_MIN = 400  # fewer cannot show a loss within 10 %: chance alone makes 5 % of so many
TRACE_FLOWS = 4
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
    """All figures of one profile; `reasons` say why they cannot be believed."""

    profile: str
    backend: str
    figures: tuple[Figure, ...]
    reasons: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether to believe runs on such a path: not if a figure is off, either."""
        off = [f"{figure.name} is off" for figure in self.figures if not figure.good]
        return Verdict((*self.reasons, *off))


class _Unusable(Exception):
    """A measurement that says nothing about the link."""


def calibrate(profile: Profile, *, backend: str = "auto", measure_s: float = 8.0) -> Calibration:
    """Takes `measure_s` and some tens of round trips; leaves out the profile's blips.

    Raises `NotPermitted`, `ConfigError`.
    """
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise NotPermitted(f"calibrating needs {tool}: apt-get install {package}")
    whole = replace(profile, blips=None)
    steady = replace(whole, trace_there=None, trace_back=None)
    bare = replace(steady, rate_bps=None, rtt_s=0.0, jitter_s=0.0, queue_bytes=None)
    parts = [
        (_round_trip, replace(steady, jitter_s=0.0)),
        (_loss, replace(steady, queue_bytes=QUEUE_BYTES)),
        *([(_loss_of_segments, bare)] if 0 < profile.loss * DATAGRAMS < LOSSES_MIN else []),
        (_rate, replace(whole, loss=0.0, loss_burst_packets=1.0)),
    ]
    figures: list[Figure] = []
    reasons: list[str] = []
    for part, simpler in parts:
        with _running(simpler, backend) as wan:
            try:
                figures += part(wan, measure_s)
            except _Unusable as error:
                reasons.append(str(error))
            reasons += judge(wan.statistics(), profile.rtt_s).reasons
            name = wan.backend
    return Calibration(profile.name, name, tuple(figures), tuple(dict.fromkeys(reasons)))


@contextmanager
def _running(profile: Profile, backend: str) -> Iterator[Wan]:
    """With an iperf3 server on b."""
    raised = (4096, 131072, RAISED_BYTES)
    host = HostConfig(wmem_bytes=raised, rmem_bytes=raised)
    with Wan(profile, backend=backend, host=host) as wan:
        far = wan.hosts["b"]
        if far.namespace is None:
            raise NotPermitted("only hosts of their own can be calibrated: tun or tc, not relay")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with far.running(["iperf3", "-s", "-J"], **quiet):
            time.sleep(0.5)
            wan.reset()
            yield wan


def _round_trip(wan: Wan, _measure_s: float) -> Iterator[Figure]:
    near, far = wan.hosts["a"], wan.hosts["b"]
    rtt_s = wan.topology.rtt_s("a", "b")
    interval_s = max(0.05, min(0.2, rtt_s))
    said = near.run(
        ["ping", "-c", str(PINGS), "-i", f"{interval_s:.3f}", far.ipv4],
        stdout=subprocess.PIPE,
        text=True,
        timeout_s=120,
    ).stdout
    times_ms = sorted(float(found) for found in re.findall(r"time=([0-9.]+)", said))
    if not times_ms:
        raise NotPermitted(f"ping got no answer from {far.ipv4}")
    allowed_ms = (RTT_OFF_MAX_S + RTT_OFF_MAX_SHARE * rtt_s) * 1e3
    yield Figure("idle RTT, median", "ms", rtt_s * 1e3, median(times_ms), allowed_ms)


def _loss(wan: Wan, _measure_s: float) -> Iterator[Figure]:
    link = wan.topology.links["a", "b"].there
    near, far = wan.hosts["a"], wan.hosts["b"]
    packet_bits = (DATAGRAM_BYTES + 28 + link.overhead_bytes) * 8
    per_s = min(DATAGRAMS_PER_S_MAX, 0.5 * (link.rate_bps or 1e9) / packet_bits)
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
    yield _loss_figure("loss", link.mean_loss, total["lost_packets"], total["packets"])


def _loss_of_segments(wan: Wan, measure_s: float) -> Iterator[Figure]:
    answer = _iperf3(
        wan.hosts["a"], wan.hosts["b"], *("-C", "cubic", "-t", str(math.ceil(measure_s)))
    )
    sent = answer["end"]["sum_sent"]
    segments = sent["retransmits"] + sent["bytes"] // SEGMENT_BYTES
    asked = wan.topology.links["a", "b"].there.mean_loss
    name = f"loss of {segments / 1e6:.1f}M segments"
    yield _loss_figure(name, asked, sent["retransmits"], segments)


def _loss_figure(name: str, asked: float, lost: int, count: int) -> Figure:
    """Chance alone makes sqrt(lost): where that is much, three times it is allowed."""
    chance = 3 * math.sqrt(asked / count)
    allowed = 100 * max(LOSS_OFF_MAX * asked, chance)
    return Figure(name, "%", asked * 100, lost / count * 100, allowed)


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


def _rate(wan: Wan, measure_s: float) -> Iterator[Figure]:
    path = wan.topology.links["a", "b"]
    if path.there.trace:
        yield _trace_rate(wan, path.there.trace, ("a", "b"))
        if path.back.trace:
            yield _trace_rate(wan, path.back.trace, ("b", "a"))
    elif path.there.rate_bps is None:
        yield _unshaped_rate(wan, measure_s)
    else:
        yield _steady_rate(wan, measure_s)
        share = wan.statistics().get("cpu_share", math.nan)
        most = CPU_SHARE_MAX * 100
        yield Figure("emulator CPU, at most", "% of a core", most, share * 100, None)


def _steady_rate(wan: Wan, measure_s: float) -> Figure:
    # What waits behind a lost packet arrives in a lump when that is repaired: hence the median.
    seconds = _seconds(wan, ("a", "b"), measure_s, flows=1)
    measured_bps = median(each["bits_per_second"] for each in seconds)
    return _goodput("TCP goodput", wan, ("a", "b"), measured_bps)


def _trace_rate(wan: Wan, trace: Trace, way: tuple[str, str]) -> Figure:
    seconds = _seconds(wan, way, trace.times_ms[-1] / 1e3, flows=TRACE_FLOWS)
    passed_bits = 8 * sum(each["bytes"] for each in seconds)
    measured_bps = passed_bits / sum(each["seconds"] for each in seconds)
    return _goodput(f"TCP goodput, {way[0]} to {way[1]}", wan, way, measured_bps)


def _goodput(name: str, wan: Wan, way: tuple[str, str], measured_bps: float) -> Figure:
    asked_bps = wan.goodput_bps(*way)
    assert asked_bps is not None
    return Figure(
        name, "Mbit/s", asked_bps / 1e6, measured_bps / 1e6, RATE_OFF_MAX * asked_bps / 1e6
    )


def _seconds(
    wan: Wan, way: tuple[str, str], lasting_s: float, *, flows: int
) -> list[dict[str, Any]]:
    """What the receiver got in each second, once all is in full swing."""
    ramp_s = RAMP_S + RAMP_RTTS * wan.topology.rtt_s(*way)
    answer = _iperf3(
        wan.hosts["a"],
        wan.hosts["b"],
        *("-C", "cubic", "-P", str(flows)),
        *("-O", str(math.ceil(ramp_s)), "-t", str(math.ceil(lasting_s))),
        *(["--get-server-output"] if way == ("a", "b") else ["-R"]),
    )
    received = answer.get("server_output_json", answer)["intervals"]
    return [each["sum"] for each in received if not each["sum"]["omitted"]]


def _unshaped_rate(wan: Wan, measure_s: float) -> Figure:
    answer = _iperf3(wan.hosts["a"], wan.hosts["b"], "-t", str(math.ceil(measure_s)))
    measured_bps = answer["end"]["sum_received"]["bits_per_second"]
    return Figure(
        "TCP goodput, at least", "Mbit/s", UNSHAPED_MIN_BPS / 1e6, measured_bps / 1e6, None
    )


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
        raise _Unusable(f"iperf3: {answer['error']}")
    return answer
