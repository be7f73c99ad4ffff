"""The TCP relay itself: listens, and carries every connection over the same two links."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Mapping
from random import Random
from typing import Any, Literal

from .config import ConfigError, LinkConfig
from .relay_connection import Connection
from .relay_link import SharedLink

Way = Literal["forward", "backward"]  # from the clients to the target, and from it to them
WAYS: tuple[Way, Way] = ("forward", "backward")

RECEIVE_BUFFER_BYTES = 128 * 1024  # bytes that wait in the kernel are in no model: keep them few
BACKLOG = 1024
DESCRIPTORS_PAUSE_S = 0.1  # before accepting again when there were no descriptors left
CANNOT = ("loss", "bursts", "duplicate", "reorder", "corrupt", "corrupt_silent")


class RelayServer:
    """A relay in this event loop. `Relay` runs one in a process of its own.

    Raises `ConfigError` for what a byte stream cannot show: loss, copies, reordering, flips,
    outages that drop.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        forward: LinkConfig,
        backward: LinkConfig,
        *,
        queue_bytes: int | None = None,
        seed: int = 0,
    ) -> None:
        check_relayable(forward)
        check_relayable(backward)
        self._target = (target_host, target_port)
        self._configs = {"forward": forward, "backward": backward}
        self._queue_bytes = queue_bytes
        self._seed = seed
        self._connections: set[Connection] = set()
        self._connections_total = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listens; returns the port. Raises `OSError` if it is taken, or the target unknown."""
        self._loop = asyncio.get_running_loop()
        infos = await self._loop.getaddrinfo(*self._target, type=socket.SOCK_STREAM)
        self._family: socket.AddressFamily = infos[0][0]
        self._address: Any = infos[0][4]
        self.links = {
            way: SharedLink(self._configs[way], Random(f"{self._seed}/{way}"), self._queue_bytes)
            for way in WAYS
        }
        self._listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
        )
        # Inherited by accepted sockets, where it must be known before the handshake.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Stops listening and resets all connections."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self.cut()
        for link in self.links.values():
            link.close()

    def change(self, way: Way, updates: Mapping[str, Any]) -> None:
        """Changes a link while it runs. Raises `ConfigError`."""
        check_relayable(LinkConfig().changed(updates))
        self.links[way].change(updates)

    def cut(self) -> int:
        """Resets all connections on both sides at once; returns how many."""
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        return len(connections)

    def statistics(self) -> dict[str, Any]:
        return {
            "connections": len(self._connections),
            "connections_total": self._connections_total,
            **{way: link.statistics() for way, link in self.links.items()},
        }

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
            target = socket.socket(self._family, socket.SOCK_STREAM)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # it would be tried again at once
                self._loop.remove_reader(self._listener)
                self._loop.call_later(DESCRIPTORS_PAUSE_S, self._accept_again)
            return
        self._connections_total += 1
        target.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        links = self.links["forward"], self.links["backward"]
        self._connections.add(
            Connection(client, target, self._address, links, self._connections.discard)
        )

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)


def check_relayable(config: LinkConfig) -> None:
    """Raises `ConfigError` naming what a relay of byte streams cannot do."""
    for name in CANNOT:
        if getattr(config, name):
            raise ConfigError(f"a relay of byte streams has no {name}: use the tun or tc backend")
    if config.outage == "drop":
        raise ConfigError("a relay of byte streams cannot drop in an outage: use 'hold'")
    if not config.ordered:
        raise ConfigError("a relay of byte streams cannot reorder: leave ordered on")
