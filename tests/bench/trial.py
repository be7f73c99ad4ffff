"""One run of one peer: its process on host a, what happens to the link meanwhile, what it cost.

What a reader does before it says that it is ready is not measured: the link's counters and the
processor time of the servers count from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from . import controls
from .client import Task
from .data import Dataset
from .link_states import Change, State, recovered_s, window_s
from .peers import Peer, Running
from .peers.interface import end, which
from .workloads import Workload

GRACE_S = 20.0
"""Beyond the limit of a run, to start and to end."""

PATIENCE = 2.0
"""With whose bytes wait for their turn: cut off, it has no figure at all."""

TCP_IP_BYTES = controls.PACKET_BYTES - controls.PAYLOAD_OF_PACKET
TARGET_RTTS, TARGET_S = 10, 1.0
"""So soon a changed link should be filled again; it is watched for twice as long."""


@dataclass
class Trial:
    """One peer, one workload, one round. `run()` once."""

    wan: Any
    data: Dataset
    running: Running
    scratch: Path
    peer: Peer
    workload: Workload
    round_number: int
    limit_s: float
    work_s: float
    _changed_s: float = 0.0
    _server_cpu_s: float = 0.0

    def run(self) -> dict[str, Any]:
        """What the client has printed, and what was seen from outside."""
        change = self.workload.change
        with self._prepared(change):
            result = self._client()
        result["server_cpu_s"] = server_cpu_s(self.running) - self._server_cpu_s
        if change:
            self._judge_change(change, result)
        return result

    @contextlib.contextmanager
    def _prepared(self, change: Change | None) -> Iterator[None]:
        """The link is in its first state, and afterwards as it was."""
        if change is None:
            yield
            return
        self.wan.change(change.first.updates(self.wan.profile))
        try:
            yield
        finally:
            self.wan.change(State().updates(self.wan.profile))

    def _judge_change(self, change: Change, result: dict[str, Any]) -> None:
        profile = self.wan.profile
        result["recovered_s"] = recovered_s(
            result["samples"],
            self._changed_s - result["began_s"],
            controls.goodput_bps(profile) * change.last.rate,
            profile.rtt_s * change.last.rtt,
        )
        result["complete"] = result["recovered_s"] is not None

    def _lasts_s(self) -> float:
        change = self.workload.change
        if change is None:
            return self.limit_s if self.peer.in_order else PATIENCE * self.limit_s
        rtt_s = self.wan.profile.rtt_s * change.last.rtt
        watched_s = 2 * (TARGET_RTTS * rtt_s + TARGET_S) + window_s(rtt_s)
        return change.states[-1][0] + watched_s

    # -- processes --

    def _client(self) -> dict[str, Any]:
        sizes = self.data.sizes
        task = Task(
            peer=self.peer.name,
            workload=self.workload.name,
            host=self.wan.hosts["b"].ipv4,
            port=self.running.port,
            folder=str(self.data.folder),
            bulk_bytes=sizes.bulk_bytes,
            blocks=sizes.blocks,
            round_number=self.round_number,
            limit_s=self._lasts_s(),
            work_s=self.work_s,
        )
        command = [sys.executable, "-m", f"{__package__}.client", json.dumps(asdict(task))]
        if self.peer.private_mounts:
            unshare = which("unshare")
            assert unshare is not None
            command = [unshare, "--mount", "--propagation", "private", *command]
        environment = {
            **os.environ,
            "TMPDIR": str(self.scratch),  # what a killed reader leaves goes with everything else
            "BENCH_SERVER_FOLDER": str(self.running.folder),
            "BENCH_DATA_FOLDER": str(self.data.folder),
        }
        with contextlib.ExitStack() as stack:
            publish = stack.enter_context(self._producer())
            process = stack.enter_context(
                self.wan.hosts["a"].popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                    start_new_session=True,
                )
            )
            patience_s = task.limit_s + task.work_s + GRACE_S
            watchdog = threading.Timer(patience_s, process.kill)
            watchdog.start()
            stack.callback(watchdog.cancel)
            stack.callback(lambda: process.poll() is None and process.kill())
            return self._followed(process, publish)

    def _followed(
        self, process: subprocess.Popen[str], publish: Callable[[], None]
    ) -> dict[str, Any]:
        assert process.stdout is not None
        result: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            for line in process.stdout:
                message = json.loads(line)
                if "ready" not in message:
                    result = message
                    break
                self.wan.reset()
                self._server_cpu_s = server_cpu_s(self.running)
                if self.workload.change:
                    stack.enter_context(self._changing(self.workload.change))
                publish()
        _, errors = process.communicate()
        if not result:
            raise RuntimeError(
                f"the client ended with {process.returncode}: {errors.strip()[-250:]}"
            )
        return result

    @contextlib.contextmanager
    def _producer(self) -> Iterator[Callable[[], None]]:
        if self.workload.kind != "tail":
            yield lambda: None
            return
        running, far = self.running, self.wan.hosts["b"]
        where = [self.peer.server, str(running.folder), far.ipv4, str(running.port)]
        command = [sys.executable, "-m", f"{__package__}.produce", *where]
        command += [str(self.workload.rate_hz), str(self.workload.count)]
        process = far.popen(command, stdin=subprocess.PIPE, text=True)

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
    def _changing(self, change: Change) -> Iterator[None]:
        """The later states come at their times, as long as somebody still reads."""
        timers = [threading.Timer(at_s, self._enter, [state]) for at_s, state in change.states[1:]]
        for timer in timers:
            timer.start()
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()
                timer.join()

    def _enter(self, state: State) -> None:
        self.wan.change(state.updates(self.wan.profile))
        self._changed_s = time.monotonic()


def server_cpu_s(running: Running | None) -> float:
    """Of a peer's server and its children, so far."""
    total = 0.0
    for process in running.processes if running else ():
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(process.pid)
            for each in (parent, *parent.children(recursive=True)):
                times = each.cpu_times()
                total += times.user + times.system
    return total


def seen_on_the_link(statistics: dict[str, Any], overhead_bytes: int) -> dict[str, Any]:
    """Of the way to the reader: what entered it, and TCP's payload of what came out."""
    back, there = (statistics.get("links", {}).get(way, {}) for way in ("b->a", "a->b"))
    framing = back.get("out_packets", 0) * (TCP_IP_BYTES + overhead_bytes)
    return {
        "wire_bytes": back.get("in_bytes", 0),
        "wire_bytes_up": there.get("in_bytes", 0),
        "payload_bytes": back.get("out_bytes", 0) - framing,
        "lost_packets": back.get("lost_packets", 0),
        "dropped_packets": back.get("dropped_packets", 0),
        "lateness_p99_us": statistics.get("lateness", {}).get("p99_us", 0),
        "valid": statistics["valid"],
        "invalid_because": statistics["invalid_because"],
    }
