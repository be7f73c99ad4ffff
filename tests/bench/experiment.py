"""One link, all peers, round by round: starts what is needed, keeps what may be believed.

Peers take turns within a workload and in another order every round, so that whatever else the
machine does hits all of them. A run on a link that was late is repeated, twice at the most, and
otherwise kept apart: `invalid` counts those. No round begins that would end after the budget.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dsm_netem.namespaces import HostConfig
from dsm_netem.wan import Wan

from . import controls
from .data import Dataset
from .peers import PEERS, SERVERS, Running
from .peers.interface import PORTS
from .trial import Trial, seen_on_the_link
from .workloads import Workload

REPEATS_MAX = 2
CONTROL_SHARE = 1.2
"""An iperf3 of a cold read lasts so much longer than the array takes at best: slow start too."""

CONTROL_MIN_S, CONTROL_MAX_S = 2.0, 8.0
CONTROL_START_S, CONTROL_START_RTTS = 1.0, 8.0
"""Of a worked-in path, iperf3 leaves out its start."""

WORK_S, WORK_SHARE = 2.5, 2.0
"""A session is worked in for so long at most, or so much longer than the link needs."""

SOCKETS = {
    "stock": ((4096, 16384, 4 << 20), (4096, 131072, 6 << 20)),
    "raised": ((4096, 65536, 64 << 20), (4096, 131072, 64 << 20)),
}
"""`tcp_wmem` and `tcp_rmem`: Linux as it comes, and as tuning guides for long paths have it."""

IPERF3 = tuple(f"iperf3-{flows}" for flows in controls.FLOWS)
CONTROLLED = ("bulk", "bulk-cold")


@dataclass(frozen=True)
class Setting:
    """One link, and how TCP is on both of its hosts; `overrides` are figures of the profile."""

    profile: str
    congestion: str
    backend: str = "tun"
    sockets: str = "stock"
    overrides: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        changed = "".join(f", {_words(*override)}" for override in self.overrides)
        raised = "" if self.sockets == "stock" else f", {self.sockets} socket limits"
        return f"{self.profile}{changed}, {self.congestion}{raised}"


def _words(figure: str, value: float) -> str:
    return f"{value / 1e6:g} Mbit/s" if figure == "rate_bps" else f"{figure} {value:g}"


@dataclass(frozen=True)
class Plan:
    """What is run on it."""

    workloads: tuple[Workload, ...]
    peers: tuple[str, ...]
    rounds: int
    limit_s: float
    budget_s: float
    controls: bool = True


@dataclass
class Outcome:
    """All runs on one link: `runs[workload][peer]` is a list of results, a round each."""

    setting: Setting
    link: dict[str, Any] = field(default_factory=dict)
    hosts: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    bounds_s: dict[str, float | None] = field(default_factory=dict)
    wanted_bytes: dict[str, int] = field(default_factory=dict)
    runs: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    invalid: int = 0
    rounds: int = 0
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "name": self.setting.name}


def measure(setting: Setting, plan: Plan, data: Dataset, folder: Path) -> Outcome:
    """Raises `NotPermitted` where namespaces are not allowed."""
    began = time.monotonic()
    outcome = Outcome(setting, sizes=asdict(data.sizes))
    wmem, rmem = SOCKETS[setting.sockets]
    config = HostConfig(congestion=setting.congestion, wmem_bytes=wmem, rmem_bytes=rmem)
    with contextlib.ExitStack() as stack:
        wan = stack.enter_context(
            Wan(setting.profile, backend=setting.backend, host=config, **dict(setting.overrides))
        )
        outcome.link = wan.profile.facts() if wan.profile else {}
        outcome.hosts = {name: host.settings for name, host in wan.hosts.items()}
        for workload in plan.workloads:
            extents = workload.extents(data.sizes, 0)
            outcome.wanted_bytes[workload.name] = sum(length for _, length in extents)
            outcome.bounds_s[workload.name] = controls.bound_s(workload, wan.profile, data.sizes)
        bench = _Bench(wan, data, plan, outcome)
        bench.start(stack, folder)
        try:
            bench.run_rounds(began)
        except KeyboardInterrupt:
            progress("  interrupted: what there is, is kept")
            outcome.seconds = time.monotonic() - began
            raise Interrupted(outcome) from None
    outcome.seconds = time.monotonic() - began
    return outcome


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; `outcome` is what was measured until then."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class _Bench:
    def __init__(self, wan: Wan, data: Dataset, plan: Plan, outcome: Outcome) -> None:
        self._wan = wan
        self._data = data
        self._plan = plan
        self._outcome = outcome
        self._near, self._far = wan.hosts["a"], wan.hosts["b"]
        self._servers: dict[str, Running] = {}
        self._stamp = time.strftime("%Y%m%d-%H%M%S")
        """Rounds of several measurements are told apart by it, once they lie together."""

    def start(self, stack: contextlib.ExitStack, folder: Path) -> None:
        """Every server that a chosen peer needs; who lacks something is skipped, and why."""
        self._scratch = folder / "scratch"
        self._scratch.mkdir(parents=True)
        for name in self._plan.peers:
            peer = PEERS[name]
            reason = peer.missing()
            if not reason and peer.server not in self._servers:
                reason = self._start_server(stack, peer.server, folder)
            if reason:
                self._outcome.skipped[name] = reason
                progress(f"  {name} is skipped: {reason}")
        if self._plan.controls and not (reason := controls.missing_iperf3()):
            stack.enter_context(controls.iperf3_server(self._far))
        elif self._plan.controls:
            self._outcome.skipped["iperf3"] = reason

    def _start_server(self, stack: contextlib.ExitStack, name: str, folder: Path) -> str:
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        running = Running(self._far, self._data, own, PORTS[name])
        try:
            stack.enter_context(SERVERS[name].start(running))
        except Exception as error:
            return f"{name} did not start: {error}"
        self._servers[name] = running
        return ""

    def _entrants(self, workload: Workload) -> list[str]:
        if workload.change and not self._outcome.link.get("rate_bps"):
            return []  # a delivery trace has no rate to step from
        peers = [
            name
            for name in self._plan.peers
            if name not in self._outcome.skipped and workload.kind in PEERS[name].workloads
        ]
        controlled = workload.name in CONTROLLED and self._plan.controls
        if controlled and "iperf3" not in self._outcome.skipped:
            return [*IPERF3, *peers]
        return peers

    def run_rounds(self, began: float) -> None:
        took_s = 0.0
        for round_number in range(self._plan.rounds):
            started = time.monotonic()
            if started - began + took_s > self._plan.budget_s and round_number:
                progress(f"  no time for round {round_number + 1} of {self._plan.rounds}")
                break
            for workload in self._plan.workloads:
                entrants = self._entrants(workload)
                for place in range(len(entrants)):
                    name = entrants[(place + round_number) % len(entrants)]
                    self._run_believed(name, workload, round_number)
            took_s = time.monotonic() - started
            self._outcome.rounds = round_number + 1

    def _run_believed(self, name: str, workload: Workload, round_number: int) -> None:
        result: dict[str, Any] = {}
        for _ in range(1 + REPEATS_MAX):
            result = self._run(name, workload, round_number)
            if result["valid"] and not result["error"]:
                break
            self._outcome.invalid += not result["valid"]
        result["round"] = f"{self._stamp}/{round_number}"
        results = self._outcome.runs.setdefault(workload.name, {}).setdefault(name, [])
        results.append(result)
        progress(f"  {round_number + 1} {workload.name:<12} {name:<16} {_short(result)}")

    def _run(self, name: str, workload: Workload, round_number: int) -> dict[str, Any]:
        self._wan.reset()
        try:
            if name in IPERF3:
                result = self._iperf3(int(name.partition("-")[2]), workload)
            else:
                result = self._trial(name, workload, round_number).run()
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            why = self._server_ended(name) or f"{type(error).__name__}: {error}"
            result = {"error": why[:300], "bytes": 0, "seconds": 0.0}
        overhead_bytes = self._outcome.link.get("overhead_bytes", 0)
        seen = seen_on_the_link(self._wan.statistics(), overhead_bytes)
        seen["wire_bytes"] *= result.get("counted_share", 1)
        return {**result, **seen, "load": os.getloadavg()[0]}

    def _server_ended(self, name: str) -> str:
        return "" if name in IPERF3 else self._servers[PEERS[name].server].ended()

    def _trial(self, name: str, workload: Workload, round_number: int) -> Trial:
        other_s = self._data.sizes.of("other") * 8 / (self._outcome.link.get("rate_bps") or 1e9)
        return Trial(
            wan=self._wan,
            data=self._data,
            running=self._servers[PEERS[name].server],
            scratch=self._scratch,
            peer=PEERS[name],
            workload=workload,
            round_number=round_number,
            limit_s=self._plan.limit_s,
            work_s=max(WORK_S, WORK_SHARE * other_s),
        )

    def _iperf3(self, flows: int, workload: Workload) -> dict[str, Any]:
        """As long as the array takes at best, within limits; warm without its start."""
        best_s = self._outcome.bounds_s[workload.name] or self._plan.limit_s
        lasting_s = min(self._plan.limit_s, max(CONTROL_MIN_S, CONTROL_SHARE * best_s))
        start_s = 0.0
        if workload.warmth == "worked":
            lasting_s = min(lasting_s, CONTROL_MAX_S)
            start_s = CONTROL_START_S + CONTROL_START_RTTS * self._outcome.link["rtt_s"]
        result = controls.iperf3(
            self._near, self._far, flows, math.ceil(lasting_s), math.ceil(start_s)
        )
        if self._outcome.link.get("rate_bps"):
            # What waited for a lost segment at the start comes in the first second: with that,
            # eight flows seem to get more than passes.
            most_bps = controls.goodput_bps(self._wan.profile)
            result["bytes"] = min(result["bytes"], int(most_bps * result["seconds"] / 8))
        return result


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _short(result: dict[str, Any]) -> str:
    if result["error"]:
        return f"failed: {result['error'][:100]}"
    rate = result["bytes"] * 8 / max(1e-9, result["seconds"]) / 1e6
    text = f"{result['seconds']:8.3f} s {rate:8.1f} Mbit/s"
    if "p50_s" in result:
        text += f"  p50 {result['p50_s'] * 1e3:.1f} ms p99 {result['p99_s'] * 1e3:.1f} ms"
    if result.get("recovered_s") is not None:
        text += f"  recovered after {result['recovered_s']:.2f} s"
    if result.get("wrong"):
        text += "  WRONG BYTES"
    if not result.get("complete"):
        text += "  (cut off)"
    return text if result["valid"] else f"{text}  INVALID: {'; '.join(result['invalid_because'])}"
