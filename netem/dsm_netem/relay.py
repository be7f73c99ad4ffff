"""A WAN for any TCP program, without privileges: `Relay`.

    with Relay("127.0.0.1", 7400, rate_bps=500e6, rtt_s=0.080) as relay:
        connect(f"dsm://{relay.address}")     # 80 ms and 500 Mbit/s away

It is a process of its own, so that the program under test does not slow the link down. Each
direction is one link that all connections share. It carries byte streams: it has rate, delay,
jitter and outages, but no loss, no slow start and no reordering; for those, see the tun backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, Self

from .child import Child, ChildError
from .config import ConfigError, LinkConfig

Ways = Literal["forward", "backward", "both"]


class RelayError(RuntimeError):
    """The relay could not be started, or is not running: says why."""


class Relay:
    """A running relay to `target_host:target_port`.

    `rate_bps` counts the bytes of the streams (no framing), each way; `rtt_s` is halved between
    the ways. `forward` (towards the target) and `backward` give whole `LinkConfig`s instead.
    `queue_bytes` is what waits per direction before senders are paused: 20 ms of the rate if
    not given. Usable as a context manager, sync or async; otherwise call `start` and `close`.
    All methods may be called from any thread.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        rate_bps: float | None = None,
        rtt_s: float = 0.0,
        forward: LinkConfig | None = None,
        backward: LinkConfig | None = None,
        queue_bytes: int | None = None,
        listen_host: str = "127.0.0.1",
        listen_port: int = 0,
        seed: int = 0,
    ) -> None:
        either = LinkConfig(rate_bps=rate_bps, delay_s=rtt_s / 2, queue_bytes=queue_bytes)
        self._setup = {
            "target_host": target_host,
            "target_port": target_port,
            "forward": _plain(forward or either),
            "backward": _plain(backward or either),
            "queue_bytes": queue_bytes,
            "listen_host": listen_host,
            "listen_port": listen_port,
            "seed": seed,
        }
        self.host = listen_host
        self.port = 0
        self._child: Child | None = None

    @property
    def address(self) -> str:
        """host:port to connect to instead of the target."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> Self:
        """Raises `RelayError`."""
        try:
            self._child = Child("dsm_netem.relay_process", self._setup)
        except ChildError as error:
            target = f"{self._setup['target_host']}:{self._setup['target_port']}"
            raise RelayError(f"relay to {target}: {error}") from error
        self.port = self._child.answer["port"]
        return self

    def close(self) -> None:
        """Resets what is connected and ends the process; may be called twice."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def set_rate(self, rate_bps: float | None, ways: Ways = "both") -> None:
        """From now on; what waits in the queue sees it too. `None` for unshaped."""
        self.change({"rate_bps": rate_bps}, ways)

    def set_rtt(self, rtt_s: float) -> None:
        """From now on; what is under way keeps its delay."""
        self.change({"delay_s": rtt_s / 2})

    def hold(self, ways: Ways = "both") -> None:
        """An outage: nothing passes any more, until `resume`; connections stay up."""
        self.change({"outage": "hold"}, ways)

    def resume(self, ways: Ways = "both") -> None:
        """Ends an outage."""
        self.change({"outage": "none"}, ways)

    def change(self, updates: Mapping[str, Any], ways: Ways = "both") -> None:
        """Changes any fields of the links' `LinkConfig`. Raises `ConfigError`."""
        named = ["forward", "backward"] if ways == "both" else [ways]
        self._running().command("change", ways=named, updates=dict(updates))

    def cut(self) -> int:
        """Resets all connections on both sides; returns how many. New ones are accepted."""
        return int(self._running().command("cut"))

    def statistics(self) -> dict[str, Any]:
        """Per way bytes in and out, queue, lateness; connections; whether at real-time priority."""
        result: dict[str, Any] = self._running().command("statistics")
        return result

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        target = f"{self._setup['target_host']}:{self._setup['target_port']}"
        state = f"listening on {self.address}" if self._child else "not running"
        return f"<Relay to {target}, {state}>"

    def _running(self) -> Child:
        if self._child is None:
            raise RelayError("the relay is not running: use it as a context manager, or start it")
        return self._child


def _plain(config: LinkConfig) -> dict[str, Any]:
    if config.trace is not None:
        raise ConfigError("a relay does not follow a delivery trace: use the tun backend")
    return asdict(config)
