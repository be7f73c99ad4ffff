"""The event loop behind every session of this process: one, on a thread of its own.

gRPC survives no fork while it is in use: a child that inherits its threads' state hangs at the
first call (measured with gRPC 1.85). So before a fork everything that holds gRPC is put to rest:
the sessions close their connections and the loop's thread ends (about 5 ms); afterwards parent and
child go on by themselves, the parent with its loop, the child with a new one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from dsm.errors import Closed, DeadlineExceeded, DsmError

T = TypeVar("T")

GRPC_THREADS = frozenset({"event_engine", "grpc_global_tim", "lifeguard"})

GRPC_END_S = 2.0
"""For gRPC's thread to end before a fork: 1 ms when idle, more where many threads compete."""


WAIT_S = 0.2
"""A thread that waits looks up so often: a Ctrl-C that comes between Python's last look for signals
and the wait itself is not noticed before the wait ends (seen in 1 of 10 at the start of a wait)."""


def patience_s(deadline_s: float | None) -> float:
    """How long to wait at a time."""
    return WAIT_S if deadline_s is None else min(WAIT_S, max(0.0, deadline_s - time.monotonic()))


class Background:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self.loop = _new_loop()
        self.sessions: WeakSet[Any] = WeakSet()
        self._gate = threading.Lock()
        self._left: set[Any] = set()
        self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="dsm-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` in the loop; from any thread but the loop's."""
        with self._gate:
            return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run `work` and wait for it; raises `DeadlineExceeded` after `timeout_s`."""
        if threading.current_thread() is self._thread:
            work.close()
            raise Closed("a blocking call from the client's own event loop; use dsm_client.aio")
        future = self.submit(work)
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            while not wait([future], patience_s(deadline_s)).done:
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    raise DeadlineExceeded(f"not done within {timeout_s} s")
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Have `function` called in the loop soon."""
        self.loop.call_soon_threadsafe(function, *arguments)

    def dropped(self, transport: Any) -> None:
        """Its session was forgotten without being closed; any thread."""
        self._left.add(transport)
        self.call(lambda: self.loop.create_task(self._end(transport)))

    async def _end(self, transport: Any) -> None:
        await transport.close()
        self._left.discard(transport)

    def rest(self) -> None:
        """Let go of gRPC and end the thread, so that the process can fork; until `resume`, other
        threads' work waits at the gate."""
        self._gate.acquire()
        for transport in list(self._left):
            asyncio.run_coroutine_threadsafe(self._end(transport), self.loop).result()
        for session in list(self.sessions):
            asyncio.run_coroutine_threadsafe(session.rest(), self.loop).result()
        _await_grpc_end()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def resume(self) -> None:
        self._start()
        for session in list(self.sessions):
            self.call(session.resume)
        self._gate.release()

    def abandon(self) -> None:
        """In a forked child: nothing of the parent's loop may be used again, nor be closed."""
        _abandoned.append(self.loop)
        for session in list(self.sessions):
            session.abandon()


def _await_grpc_end() -> None:
    """gRPC shuts down with the last object that refers to it, and its threads some milliseconds
    later; a child that is forked in between hangs. They never end where this process has other
    users of gRPC, such as a node: then the child cannot use it."""
    deadline_s = time.monotonic() + GRPC_END_S
    while _grpc_threads() and time.monotonic() < deadline_s:
        gc.collect()
        time.sleep(0.002)


def _grpc_threads() -> int:
    """Threads of gRPC's core, by the names that it gives them, and of its asyncio poller."""
    pollers = sum("_poll_wrapper" in thread.name for thread in threading.enumerate())
    tasks = Path("/proc/self/task").iterdir()
    return pollers + sum(_thread_name(task) in GRPC_THREADS for task in tasks)


def _thread_name(task: Path) -> str:
    try:
        return (task / "comm").read_text().strip()
    except OSError:  # it has just ended
        return ""


_background: Background | None = None
_lock = threading.Lock()
_abandoned: list[object] = []
_grpc_was_used = False
_broken = ""
"""Why gRPC cannot be used in this process, if it cannot."""


def background() -> Background:
    """This process's loop; started when first asked for."""
    global _background
    with _lock:
        if _broken:
            raise DsmError(_broken)
        if _background is None:
            _background = Background()
        return _background


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _before_fork() -> None:
    global _grpc_was_used
    _lock.acquire()
    if _background is not None:
        _background.rest()
    _grpc_was_used = _grpc_threads() > 0


def _after_fork_in_parent() -> None:
    if _background is not None:
        _background.resume()
    _lock.release()


def _after_fork_in_child() -> None:
    global _background, _broken
    if _grpc_was_used:
        _broken = (
            "this process was forked while its parent used gRPC otherwise (a Node, a server), and "
            "gRPC does not survive that; start it with the multiprocessing method 'spawn'"
        )
    if _background is not None:
        _background.abandon()
        _background = None
    _lock.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
