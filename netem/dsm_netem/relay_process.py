"""`python -m dsm_netem.relay_process`: a relay in a process of its own, for `relay.Relay`."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from .commands import Verbs, read_setup, say, serve
from .config import ConfigError, LinkConfig
from .precision import become_punctual
from .relay_server import WAYS, RelayServer


def allow_many_connections() -> None:
    """Each takes two descriptors, and the usual limit is for programs that use `select`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def run(setup: dict[str, Any]) -> None:
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
    allow_many_connections()
    realtime = become_punctual()

    def change(ways: list[str], updates: dict[str, Any]) -> None:
        for way in WAYS:
            if way in ways:
                server.change(way, updates)

    verbs: Verbs = {
        "change": change,
        "cut": server.cut,
        "statistics": lambda: {**server.statistics(), "realtime": realtime},
    }
    say({"port": port})
    await serve(setup["parent_pid"], verbs)
    server.close()


if __name__ == "__main__":
    asyncio.run(run(read_setup()))
