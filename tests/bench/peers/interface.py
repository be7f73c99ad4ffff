"""What a peer must say and do to be measured. One small file per peer, this one interface.

A peer's **server** runs on host b and is loaded once per link; peers that differ only in how they
read share one. A peer's **reader** lives in a fresh process on host a for every run: nothing that
one run has cached helps the next.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data import Dataset, Extent
from ..workloads import READ_BYTES, pieces

Buffer = bytes | bytearray | memoryview

START_S = 20.0
PORTS = {
    "node": 7400,
    "node-refused": 7401,
    "node-tls": 7402,
    "nginx": 8080,
    "redis": 6379,
    "nats": 4222,
    "flight": 8815,
    "rsync": 8730,
    "sshd": 2222,
    "zenoh": 7447,
    "xrootd": 1094,
}


class Reader:
    """An open connection. What a peer does not do better, it inherits."""

    def close(self) -> None:
        """Let go of it; not measured."""

    def warm(self, name: str, size: int) -> None:
        """One small read, at the end of a file, so that the connection stands."""
        self.read(name, size - 1024, 1024)

    def work(self, name: str, size: int, limit_s: float) -> None:
        """Read an array in order, for so long at most: then the path is known, and lanes are up."""
        over = time.monotonic() + limit_s
        reads = self.sequential(name, pieces(0, size, READ_BYTES))
        for _ in reads:
            if time.monotonic() > over:
                break
        let_go(reads)

    def stop(self) -> int:
        """Its time is over: give up what is under way. Bytes that came and were not yielded."""
        return 0

    def read(self, name: str, offset: int, length: int) -> Buffer:
        """One read that somebody waits for."""
        raise NotImplementedError

    def sequential(self, name: str, extents: Sequence[Extent]) -> Iterator[Buffer]:
        """Adjacent extents, in order."""
        for offset, length in extents:
            yield self.read(name, offset, length)

    def scattered(
        self, name: str, extents: Sequence[Extent], depth: int
    ) -> Iterator[tuple[Buffer, float]]:
        """Extents in order, `depth` of them under way at a time; each with its seconds."""

        def one(extent: Extent) -> tuple[Buffer, float]:
            started = time.perf_counter()
            data = self.read(name, *extent)
            return data, time.perf_counter() - started

        if depth == 1:
            yield from map(one, extents)
            return
        with ThreadPoolExecutor(depth) as pool:
            yield from pool.map(one, extents)

    def headers(self, count: int) -> Iterator[Buffer]:
        """The headers of all blocks, in order."""
        raise NotImplementedError

    def payloads(self, seqs: Sequence[int]) -> Iterator[Buffer]:
        """Payloads of these blocks, after their headers were read."""
        raise NotImplementedError

    def tail(self, count: int) -> Iterator[tuple[Buffer, int]]:
        """Follow from now on: so many blocks, each with `time.time_ns()` when it was usable.

        Calls `self.following()` once it would miss nothing.
        """
        raise NotImplementedError

    following: Callable[[], None] = staticmethod(lambda: None)


@dataclass(frozen=True)
class Peer:
    """How one thing is read. `server` names who serves it; see `SERVERS`."""

    name: str
    server: str
    title: str
    open: Callable[[str, int], Reader]
    """Connects to a host's port, on host a."""
    workloads: frozenset[str]
    """The kinds that it can do."""
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    connections: int = 1
    """That it reads an array with, if that is not measured but fixed."""
    in_order: bool = True
    """What came can be read at once; `False` where it waits for what other connections bring."""
    private_mounts: bool = False
    """Its client process mounts something: nobody else shall see that, nor shall it survive."""

    def missing(self) -> str:
        """What of it is not installed here; empty if all is there."""
        return missing(self.modules, (*self.programs, *SERVERS[self.server].programs))


@dataclass(frozen=True)
class Server:
    """Who serves peers on host b."""

    name: str
    programs: tuple[str, ...]
    start: Callable[[Running], Any]
    """Starts it on `Running.host` (a context manager), loads the data, returns when it answers."""
    produce: Callable[[str, int, float, int], None] | None = None
    """On host b: publish `count` blocks at a rate for the live tail."""


@dataclass
class Running:
    """What a server is started with, and what is known of it."""

    host: Any
    data: Dataset
    folder: Path
    port: int
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    def ended(self) -> str:
        """What it said last, if it has ended though it should not have."""
        codes = [process.poll() for process in self.processes]
        if all(code is None for code in codes):
            return ""
        logs = sorted(self.folder.glob("*.log"))
        said = "".join(log.read_text(errors="replace")[-200:] for log in logs)
        return f"the server has ended with {codes}: {said}"

    @contextlib.contextmanager
    def program(self, command: Sequence[str], *, port: int | None = None) -> Iterator[Any]:
        """A program on the host, until the block is left; entered when its port answers."""
        log = self.folder / f"{Path(command[0]).name}.log"
        with log.open("ab") as output:
            process = self.host.popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder
            )
        self.processes.append(process)
        try:
            self.host.call(wait_for_port, self.host.ipv4, port or self.port, process, log)
            yield process
        finally:
            end(process)


SERVERS: dict[str, Server] = {}
PEERS: dict[str, Peer] = {}


def serves(*, name: str, programs: tuple[str, ...] = (), produce: Any = None) -> Any:
    """Registers a context manager over `Running` as a server."""

    def register(start: Any) -> Any:
        SERVERS[name] = Server(name, programs, contextlib.contextmanager(start), produce)
        return start

    return register


def register(peer: Peer) -> None:
    PEERS[peer.name] = peer


def missing(modules: Iterable[str], programs: Iterable[str]) -> str:
    """Names what is not installed."""
    absent = [f"module {name}" for name in modules if not _has_module(name)]
    absent += [f"program {name}" for name in programs if which(name) is None]
    return ", ".join(absent)


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def which(program: str) -> str | None:
    """Also where daemons are, which is not on every user's path."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def wait_for_port(host: str, port: int, process: subprocess.Popen[Any], log: Path) -> None:
    """Until somebody listens. Raises `RuntimeError` with what the program said."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection((host, port), 0.5):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{log.stem} did not start: {log.read_text(errors='replace')[-400:]}")


def end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(3.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def let_go(reads: Iterator[Any]) -> None:
    """Whoever reads has enough, before the end."""
    if isinstance(reads, Generator):
        reads.close()


def paced(count: int, rate_hz: float, length: int) -> Iterator[bytes]:
    """Blocks of a live source, each when it is due: its number and the time, then filling."""
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number / rate_hz - time.monotonic()))
        stamp = time.time_ns().to_bytes(8, "little") + number.to_bytes(8, "little")
        yield stamp + bytes(length - len(stamp))


def stamp_of(block: Buffer) -> tuple[int, int]:
    """When a block of `paced` was published, in nanoseconds, and its number."""
    head = bytes(block[:16])
    return int.from_bytes(head[:8], "little"), int.from_bytes(head[8:], "little")
