"""`python -m dsm_netem.relay_process`: a relay in a process of its own, for `relay.Relay`.

Speaks one JSON object per line. The first line on standard input is what to set up; every line
after it is a command with an `id`, and each is answered by one line with the same `id` and
either `result` or `error`. It ends when standard input ends or when its parent does: the
parent's pidfd is watched, because a pipe is kept open by whatever the parent has forked.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from typing import Any

from .config import ConfigError, LinkConfig
from .precision import become_punctual
from .relay_server import WAYS, RelayServer


class _Commands:
    """Reads commands from standard input and answers them."""

    def __init__(self, server: RelayServer, realtime: bool, done: asyncio.Event) -> None:
        self._server = server
        self._realtime = realtime
        self._done = done
        self._pending = b""

    def readable(self) -> None:
        data = os.read(0, 65536)
        if not data:
            self._done.set()
            return
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._answer(json.loads(line))

    def _answer(self, command: dict[str, Any]) -> None:
        verbs: dict[str, Callable[[], Any]] = {
            "change": lambda: self._change(command["ways"], command["updates"]),
            "cut": self._server.cut,
            "statistics": lambda: {**self._server.statistics(), "realtime": self._realtime},
        }
        try:
            say({"id": command["id"], "result": verbs[command["do"]]()})
        except ConfigError as error:
            say({"id": command["id"], "error": str(error)})

    def _change(self, ways: list[str], updates: dict[str, Any]) -> None:
        for way in WAYS:
            if way in ways:
                self._server.change(way, updates)


def say(message: dict[str, Any]) -> None:
    """One line to the parent."""
    os.write(1, json.dumps(message).encode() + b"\n")


async def run(setup: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    try:
        parent = os.pidfd_open(setup["parent_pid"])
    except ProcessLookupError:
        return
    loop.add_reader(parent, done.set)
    try:
        server = RelayServer(
            setup["target_host"],
            setup["target_port"],
            LinkConfig(**setup["forward"]),
            LinkConfig(**setup["backward"]),
            queue_bytes=setup["queue_bytes"],
            seed=setup["seed"],
        )
        port = await server.start(setup["listen_host"], setup["listen_port"])
    except (OSError, ConfigError) as error:
        say({"error": str(error)})
        return
    loop.add_reader(0, _Commands(server, become_punctual(), done).readable)
    say({"port": port})
    await done.wait()
    server.close()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with open(0, "rb", buffering=0, closefd=False) as commands:
        setup = json.loads(commands.readline())
    asyncio.run(run(setup))


if __name__ == "__main__":
    main()
