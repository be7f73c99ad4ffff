"""The process on host a: one peer, one workload, once. Prints JSON lines, the last is the result.

{"ready": ...}    what comes next is measured (or: a live tail misses nothing from here)
{"seconds": ...}  the result; with `wrong` if the bytes were not the ones that were served
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data import Checksum, Dataset, Sizes
from .driving import Drive
from .link_states import Sample
from .peers import PEERS, Reader
from .peers.interface import Peer, stamp_of
from .workloads import BY_NAME, TAIL_BYTES, Workload

MARKS = 16
"""Of a run: when each sixteenth was there, to tell a slow start from a slow path."""

SAMPLE_S = 0.01


@dataclass(frozen=True)
class Task:
    """What a client process is told on its command line."""

    peer: str
    workload: str
    host: str
    port: int
    folder: str
    bulk_bytes: int
    blocks: int
    round_number: int
    limit_s: float
    work_s: float
    """Of what is read before, where a session is to be worked in."""

    @property
    def data(self) -> Dataset:
        return Dataset(Path(self.folder), Sizes(self.bulk_bytes, self.blocks))


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def cpu_s() -> float:
    """Of this process and of those that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def run(task: Task) -> dict[str, Any]:
    peer, workload = PEERS[task.peer], BY_NAME[task.workload]
    for module in peer.modules:
        importlib.import_module(module)  # loading a library is not what is measured
    if workload.kind == "tail":
        return _tail(task, peer, workload)
    if workload.warmth == "cold":
        return _measured(task, peer, workload, lambda: peer.open(task.host, task.port))
    reader = peer.open(task.host, task.port)
    _warm(reader, workload, task)
    time.sleep(0.2)  # what the warming read has set off comes to rest
    return _measured(task, peer, workload, lambda: reader)


def _warm(reader: Reader, workload: Workload, task: Task) -> None:
    """What is read in order, or first, was not opened before; what is read at random was."""
    sizes = task.data.sizes
    if workload.warmth == "worked":
        reader.work("other", sizes.of("other"), task.work_s)
    if workload.kind == "first":
        reader.warm("other", sizes.of("other"))
    elif workload.kind == "demand" or workload.warmth == "touched":
        reader.warm(workload.source, sizes.of(workload.source))


def _measured(
    task: Task, peer: Peer, workload: Workload, opened: Callable[[], Reader]
) -> dict[str, Any]:
    data = task.data
    extents = workload.extents(data.sizes, task.round_number)
    total, times = Checksum(), list[float]()
    first_s, reads, unread = 0.0, 0, 0
    marks, every = list[float](), max(1, len(extents) // MARKS)
    samples, sampled_s = list[Sample](), 0.0
    over = threading.Event()
    readers: list[Reader] = []
    timer = threading.Timer(task.limit_s, lambda: (over.set(), [r.stop() for r in readers]))
    timer.daemon = True
    timer.start()
    say(ready=True)
    cpu, started, began_s = cpu_s(), time.perf_counter(), time.monotonic()
    readers.append(opened())
    drive = Drive(readers[0], workload, extents, data.sizes)
    error = ""
    try:
        for buffer, spent_s in drive.reads():
            first_s = first_s or time.perf_counter() - started
            reads += 1
            times.append(spent_s)
            total.add(buffer)
            if reads % every == 0:
                marks.append(round(time.perf_counter() - started, 4))
            if workload.change and time.perf_counter() - started > sampled_s + SAMPLE_S:
                sampled_s = time.perf_counter() - started
                samples.append((round(sampled_s, 4), total.bytes))
            if over.is_set():
                break
    except Exception as failure:
        if not over.is_set():
            error = f"{type(failure).__name__}: {failure}"[:300]
    seconds, cpu = time.perf_counter() - started, cpu_s() - cpu
    timer.cancel()
    if over.is_set() and not total.bytes:
        unread = readers[0].stop()
    result = {
        "seconds": seconds,
        "first_s": first_s,
        "bytes": total.bytes + unread,
        "complete": drive.complete(reads),
        "in_order": peer.in_order,
        "client_cpu_s": cpu,
        "wrong": total.value != data.checksum(workload.source, extents[:reads]),
        "error": error,
        **_spread(times),
        **drive.notes,
        "began_s": began_s,
        "marks_s": marks,
        "samples": samples,
        "times_ms": [round(spent_s * 1e3, 2) for spent_s in times if spent_s],
        "explain": getattr(readers[0], "explain", str)(),
    }
    _close(readers[0])
    return result


def _spread(times: list[float]) -> dict[str, float]:
    times = sorted(spent for spent in times if spent)
    if not times:
        return {}
    at = min(len(times) - 1, int(len(times) * 0.99))
    return {"p50_s": statistics.median(times), "p99_s": times[at]}


def _tail(task: Task, peer: Peer, workload: Workload) -> dict[str, Any]:
    reader = peer.open(task.host, task.port)
    reader.following = lambda: say(ready=True)
    times, numbers, size = list[float](), list[int](), 0
    over = threading.Event()
    timer = threading.Timer(task.limit_s, over.set)
    timer.daemon = True
    timer.start()
    cpu, error = cpu_s(), ""
    try:
        for block, usable_ns in reader.tail(workload.count):
            published_ns, number = stamp_of(block)
            times.append((usable_ns - published_ns) / 1e9)
            numbers.append(number)
            size += len(block)
            if over.is_set():
                break
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"[:300]
    timer.cancel()
    result = {
        "seconds": workload.count / workload.rate_hz,
        "first_s": times[0] if times else 0.0,
        "bytes": size,
        "complete": len(numbers) == workload.count,
        "client_cpu_s": cpu_s() - cpu,
        "wrong": numbers != list(range(len(numbers))) or size != len(numbers) * TAIL_BYTES,
        "error": error,
        **_spread(times),
    }
    _close(reader)
    return result


def _close(reader: Reader) -> None:
    with contextlib.suppress(Exception):
        reader.close()


def main() -> None:
    say(**run(Task(**json.loads(sys.argv[1]))))
    sys.stdout.flush()
    os._exit(0)  # whatever threads a library has left do not matter any more


if __name__ == "__main__":
    main()
