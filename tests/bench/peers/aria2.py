"""aria2: a file from nginx over 1 connection or 8 (16, the most it takes, overrun the emulator)."""

from __future__ import annotations

import functools

from .interface import Peer, register
from .rsync import CopyReader


class Aria2Reader(CopyReader):
    def __init__(self, host: str, port: int, *, connections: int) -> None:
        super().__init__(host, port)
        self._connections = str(connections)

    def command(self, name: str) -> list[str]:
        options = ["-x", self._connections, "-s", self._connections, "-k", "1M"]
        quiet = ["-q", "--file-allocation=none", "--no-conf", "--allow-overwrite=true"]
        where = ["-d", str(self.target), "-o", name]
        return ["aria2c", *quiet, *options, *where, self.address("http", name)]


for connections in (1, 8):
    register(
        Peer(
            f"aria2-{connections}",
            "nginx",
            f"aria2, {connections} connection{'s' if connections > 1 else ''}",
            functools.partial(Aria2Reader, connections=connections),
            frozenset({"sequential"}),
            programs=("aria2c",),
            connections=connections,
        )
    )
