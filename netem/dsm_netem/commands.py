"""The child's side of `child`: takes commands from standard input until that, or the parent, ends.

The first line is what to set up, and is answered by what came of it or by an `error`. Every line
after it names a verb and its arguments, and is answered by `result` or `error`. The
parent's pidfd is watched too, because a pipe is kept open by whatever the parent has forked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
from collections.abc import Callable, Mapping
from typing import Any

from .config import ConfigError

Verbs = Mapping[str, Callable[..., Any]]
Handlers = Mapping[int, Callable[[], None]]  # by the descriptor that becomes readable
NOTHING_ELSE: Handlers = {}


def read_setup() -> dict[str, Any]:
    """What the parent wants; from here on Ctrl-C is left to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(0, "rb", buffering=0, closefd=False) as commands:
        setup: dict[str, Any] = json.loads(commands.readline())
    return setup


def say(message: Mapping[str, Any]) -> None:
    """One line to the parent."""
    os.write(1, json.dumps(message).encode() + b"\n")


async def serve(parent_pid: int, verbs: Verbs) -> None:
    """Answers commands; returns when there is nobody left to give any."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    pending = b""

    def readable() -> None:
        nonlocal pending
        data = os.read(0, 65536)
        if not data:
            done.set()
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            _answer(json.loads(line), verbs)

    try:
        parent = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        return
    loop.add_signal_handler(signal.SIGTERM, done.set)
    loop.add_reader(parent, done.set)
    loop.add_reader(0, readable)
    await done.wait()


def serve_blocking(parent_pid: int, verbs: Verbs, handlers: Handlers = NOTHING_ELSE) -> None:
    """The same without asyncio, whose loop would cost more than what is done in it.

    `handlers` are called when their descriptors are readable. Returns on SIGTERM, too.
    """
    try:
        parent = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        return
    waiting = select.epoll()
    for descriptor in (0, parent, *handlers):
        waiting.register(descriptor, select.EPOLLIN)
    signal.signal(signal.SIGTERM, _end)
    pending = b""
    with contextlib.suppress(SystemExit):
        while True:
            for descriptor, _ in waiting.poll():
                if descriptor in handlers:
                    handlers[descriptor]()
                    continue
                if descriptor == parent or not (data := os.read(0, 65536)):
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    _answer(json.loads(line), verbs)


def _end(*_: object) -> None:
    raise SystemExit


def _answer(command: dict[str, Any], verbs: Verbs) -> None:
    try:
        result = verbs[command["do"]](**command["with"])
    except (ConfigError, OSError) as error:
        say({"id": command["id"], "error": str(error)})
    else:
        say({"id": command["id"], "result": result})
