"""One link, all peers, round by round: starts what is needed, keeps what may be believed.

Peers take turns within a workload and in another order every round, so that whatever else the
machine does hits all of them. A run on a link that was late is repeated, twice at the most, and
otherwise kept apart: `invalid` counts those. No round begins that would end after the budget.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from dsm_netem.namespaces import HostConfig
from dsm_netem.wan import Wan

from . import controls
from .client import Task
from .data import Dataset
from .peers import PEERS, SERVERS, Peer, Running
from .peers.interface import PORTS, end, which
from .workloads import Workload

REPEATS_MAX = 2
GRACE_S = 20.0
"""Beyond the limit of a run, to start and to end."""

CONTROL_SHARE = 1.2

IPERF3 = tuple(f"iperf3-{flows}" for flows in controls.FLOWS)


@dataclass(frozen=True)
class Setting:
    """One link with one congestion control."""

    profile: str
    congestion: str
    backend: str = "tun"


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
    bounds_s: dict[str, float | None] = field(default_factory=dict)
    wanted_bytes: dict[str, int] = field(default_factory=dict)
    runs: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    invalid: int = 0
    rounds: int = 0
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def measure(setting: Setting, plan: Plan, data: Dataset, folder: Path) -> Outcome:
    """Raises `NotPermitted` where namespaces are not allowed."""
    began = time.monotonic()
    outcome = Outcome(setting)
    config = HostConfig(congestion=setting.congestion)
    with contextlib.ExitStack() as stack:
        wan = stack.enter_context(Wan(setting.profile, backend=setting.backend, host=config))
        outcome.link = wan.profile.facts() if wan.profile else {}
        outcome.hosts = {name: host.settings for name, host in wan.hosts.items()}
        for workload in plan.workloads:
            extents = workload.extents(data.sizes, 0)
            outcome.wanted_bytes[workload.name] = sum(length for _, length in extents)
            outcome.bounds_s[workload.name] = controls.bound_s(workload, wan.profile, data.sizes)
        bench = _Bench(wan, data, plan, outcome)
        bench.start(stack, folder)
        bench.run_rounds(began)
    outcome.seconds = time.monotonic() - began
    return outcome


class _Bench:
    def __init__(self, wan: Wan, data: Dataset, plan: Plan, outcome: Outcome) -> None:
        self._wan = wan
        self._data = data
        self._plan = plan
        self._outcome = outcome
        self._near, self._far = wan.hosts["a"], wan.hosts["b"]
        self._servers: dict[str, Running] = {}

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
        if workload.change == "step" and not self._outcome.link.get("rate_bps"):
            return []  # a delivery trace has no rate to step from
        peers = [
            name
            for name in self._plan.peers
            if name not in self._outcome.skipped and workload.kind in PEERS[name].workloads
        ]
        if (
            workload.name == "bulk"
            and self._plan.controls
            and "iperf3" not in self._outcome.skipped
        ):
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
        results = self._outcome.runs.setdefault(workload.name, {}).setdefault(name, [])
        results.append(result)
        progress(f"  {round_number + 1} {workload.name:<12} {name:<16} {_short(result)}")

    def _run(self, name: str, workload: Workload, round_number: int) -> dict[str, Any]:
        self._wan.reset()
        before = self._server_cpu_s(name)
        try:
            if name in IPERF3:
                result = self._iperf3(int(name.partition("-")[2]))
            else:
                result = self._client(PEERS[name], workload, round_number)
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            result = {"error": f"{type(error).__name__}: {error}"[:300], "bytes": 0, "seconds": 0.0}
        result.setdefault("server_cpu_s", self._server_cpu_s(name) - before)
        statistics = self._wan.statistics()
        back, there = (statistics.get("links", {}).get(way, {}) for way in ("b->a", "a->b"))
        return {
            **result,
            "wire_bytes": back.get("in_bytes", 0),
            "wire_bytes_up": there.get("in_bytes", 0),
            "lost_packets": back.get("lost_packets", 0),
            "dropped_packets": back.get("dropped_packets", 0),
            "lateness_p99_us": statistics.get("lateness", {}).get("p99_us", 0),
            "valid": statistics["valid"],
            "invalid_because": statistics["invalid_because"],
            "load": os.getloadavg()[0],
        }

    def _iperf3(self, flows: int) -> dict[str, Any]:
        # About as long as the array takes at best, so that slow start weighs as much as there.
        best_s = self._outcome.bounds_s["bulk"] or self._plan.limit_s
        lasting_s = math.ceil(min(self._plan.limit_s, CONTROL_SHARE * best_s))
        return controls.iperf3(self._near, self._far, flows, lasting_s)

    def _client(self, peer: Peer, workload: Workload, round_number: int) -> dict[str, Any]:
        running = self._servers[peer.server]
        task = Task(
            peer=peer.name,
            workload=workload.name,
            host=self._far.ipv4,
            port=running.port,
            folder=str(self._data.folder),
            bulk_bytes=self._data.sizes.bulk_bytes,
            blocks=self._data.sizes.blocks,
            round_number=round_number,
            limit_s=self._plan.limit_s,
        )
        command = [sys.executable, "-m", f"{__package__}.client", json.dumps(asdict(task))]
        if peer.private_mounts:
            unshare = which("unshare")
            assert unshare is not None
            command = [unshare, "--mount", "--propagation", "private", *command]
        environment = {
            **os.environ,
            "TMPDIR": str(self._scratch),  # what a killed reader leaves goes with everything else
            "BENCH_SERVER_FOLDER": str(running.folder),
            "BENCH_DATA_FOLDER": str(self._data.folder),
        }
        with contextlib.ExitStack() as stack:
            publish = stack.enter_context(self._producer(running, peer.server, workload))
            process = stack.enter_context(
                self._near.popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                    start_new_session=True,
                )
            )
            watchdog = threading.Timer(self._plan.limit_s + GRACE_S, process.kill)
            watchdog.start()
            stack.callback(watchdog.cancel)
            stack.callback(lambda: process.poll() is None and process.kill())
            return self._followed(process, workload, publish)

    def _followed(
        self, process: subprocess.Popen[str], workload: Workload, publish: Any
    ) -> dict[str, Any]:
        assert process.stdout is not None
        result: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            for line in process.stdout:
                message = json.loads(line)
                if "ready" not in message:
                    result = message
                    break
                if workload.change:
                    stack.enter_context(self._changing(workload.change))
                publish()
        _, errors = process.communicate()
        if not result:
            raise RuntimeError(
                f"the client ended with {process.returncode}: {errors.strip()[-250:]}"
            )
        return result

    @contextlib.contextmanager
    def _producer(self, running: Running, server: str, workload: Workload) -> Iterator[Any]:
        if workload.kind != "tail":
            yield lambda: None
            return
        where = [server, str(running.folder), self._far.ipv4, str(running.port)]
        command = [sys.executable, "-m", f"{__package__}.produce", *where]
        command += [str(workload.rate_hz), str(workload.count)]
        process = self._far.popen(command, stdin=subprocess.PIPE, text=True)

        def publish() -> None:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

        try:
            yield publish
        finally:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            end(process)

    @contextlib.contextmanager
    def _changing(self, change: str) -> Iterator[None]:
        """The link changes and changes back meanwhile, and is as it was afterwards."""
        profile = self._wan.profile
        assert profile is not None
        worse: dict[str, Any] = {"outage": "drop"}
        better: dict[str, Any] = {"outage": "none"}
        if change == "step":
            assert profile.rate_bps is not None
            worse = {"rate_bps": profile.rate_bps * controls.STEP_SHARE}
            better = {"rate_bps": profile.rate_bps}
        timers = [
            threading.Timer(controls.STEP_AT_S, self._wan.change, [worse]),
            threading.Timer(controls.STEP_AT_S + controls.STEP_S, self._wan.change, [better]),
        ]
        for timer in timers:
            timer.start()
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()
                timer.join()
            self._wan.change(better)

    def _server_cpu_s(self, name: str) -> float:
        """Of a peer's server and its children, so far."""
        peer = PEERS.get(name)
        running = self._servers.get(peer.server) if peer else None
        total = 0.0
        for process in running.processes if running else ():
            with contextlib.suppress(psutil.Error):
                parent = psutil.Process(process.pid)
                for each in (parent, *parent.children(recursive=True)):
                    times = each.cpu_times()
                    total += times.user + times.system
        return total


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _short(result: dict[str, Any]) -> str:
    if result["error"]:
        return f"failed: {result['error'][:100]}"
    rate = result["bytes"] * 8 / max(1e-9, result["seconds"]) / 1e6
    text = f"{result['seconds']:8.3f} s {rate:8.1f} Mbit/s"
    if "p50_s" in result:
        text += f"  p50 {result['p50_s'] * 1e3:.1f} ms p99 {result['p99_s'] * 1e3:.1f} ms"
    if result.get("wrong"):
        text += "  WRONG BYTES"
    if not result.get("complete"):
        text += "  (cut off)"
    return text if result["valid"] else f"{text}  INVALID: {'; '.join(result['invalid_because'])}"
