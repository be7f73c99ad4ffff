"""The TCP relay itself: listens, and carries every connection over the two links.

Delays cannot be put into a handshake without privileges, so the relay acts it out: what the
client's kernel believes to be an established connection carries nothing until marks have
crossed the links as SYN, SYN-ACK and ACK would have:

    client          relay's client side            relay's target side          target
      │── connect ──▶│ accepted ════ SYN ═══════════▶│
      │              │◀═════════════ SYN-ACK ════════│
      │── bytes ────▶│ now read ════ ACK, bytes ════▶│── connect, bytes ────────▶│

End of stream and reset travel as marks too, behind the bytes that were sent before.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Mapping
from random import Random
from typing import Any, Literal

from .config import ConfigError, LinkConfig
from .relay_link import SharedLink

Way = Literal["forward", "backward"]  # from the clients to the target, and from it to them
WAYS: tuple[Way, Way] = ("forward", "backward")

RECEIVE_BUFFER_BYTES = 128 * 1024  # bytes that wait in the kernel are in no model: keep them few
UNDELIVERED_BYTES_MAX = 256 * 1024  # a reader this far behind has its sender paused
BACKLOG = 1024
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
        self._connections: set[_Connection] = set()
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
        except OSError:
            return  # it was gone again, or descriptors ran out: the next one may do better
        self._connections_total += 1
        target = socket.socket(self._family, socket.SOCK_STREAM)
        target.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        connection = _Connection(self, client, target, self._address)
        self._connections.add(connection)

    def forget(self, connection: _Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)


def check_relayable(config: LinkConfig) -> None:
    """Raises `ConfigError` naming what a relay of byte streams cannot do."""
    for name in CANNOT:
        if getattr(config, name):
            raise ConfigError(f"a relay of byte streams has no {name}: use the tun or tc backend")
    if config.outage == "drop":
        raise ConfigError("a relay of byte streams cannot drop in an outage: use 'hold'")
    if not config.ordered:
        raise ConfigError("a relay of byte streams cannot reorder: leave ordered on")


class _Connection:
    """Two sockets and the two halves between them."""

    def __init__(
        self, server: RelayServer, client: socket.socket, target: socket.socket, address: Any
    ) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._client, self._target, self._address = client, target, address
        for end in (client, target):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._forward = _Half(self, client, target, server.links["forward"])
        self._backward = _Half(self, target, client, server.links["backward"])
        self._backward.open()
        server.links["forward"].mark(self._syn_arrived)

    def half_finished(self) -> None:
        """One direction was delivered to its end."""
        if self._forward.finished and self._backward.finished:
            self._close()

    def refused(self, half: _Half) -> None:
        """A half's reader is gone: its sender hears of it one delay later."""
        back = self._backward if half is self._forward else self._forward
        half.stop()
        back.send_reset()

    def abort(self) -> None:
        """Resets both sides now."""
        for end in (self._client, self._target):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close()

    def _close(self) -> None:
        for half in (self._forward, self._backward):
            half.stop()
        for end in (self._client, self._target):
            end.close()
        self._server.forget(self)

    # -- the handshake --

    def _syn_arrived(self) -> None:
        if not self._forward.stopped:
            self._server.links["backward"].mark(self._syn_ack_arrived)

    def _syn_ack_arrived(self) -> None:
        if not self._forward.stopped:
            self._server.links["forward"].mark(self._ack_arrived)
            self._forward.start_reading()

    def _ack_arrived(self) -> None:
        if self._forward.stopped:
            return
        try:
            self._target.connect(self._address)
        except BlockingIOError:
            self._loop.add_writer(self._target, self._connected)
        except OSError:
            self.refused(self._forward)
        else:
            self._connected()

    def _connected(self) -> None:
        self._loop.remove_writer(self._target)
        if self._target.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.refused(self._forward)
            return
        self._forward.open()
        self._backward.start_reading()


class _Half:
    """One direction of a connection: reads one socket, writes to the other.

    Its reader may be slower than the link. Then bytes gather in `_undelivered`, and the source
    is not read until they are fewer again.
    """

    def __init__(
        self,
        connection: _Connection,
        source: socket.socket,
        sink: socket.socket,
        link: SharedLink,
    ) -> None:
        self.stopped = False
        self.finished = False
        self._connection = connection
        self._source, self._sink, self._link = source, sink, link
        self._loop = asyncio.get_running_loop()
        self._open = False  # the sink can be written to
        self._undelivered: deque[memoryview] = deque()
        self._undelivered_bytes = 0
        self._paused = False
        self._ending = False

    def start_reading(self) -> None:
        if not self.stopped:
            self._loop.add_reader(self._source, self._readable)

    def open(self) -> None:
        """The sink is connected."""
        self._open = True
        self._write()

    def stop(self) -> None:
        """Reads and writes no more; what is under way is discarded when it arrives."""
        if self.stopped:
            return
        self.stopped = True
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)
        self._link.withdraw(self)
        self._undelivered.clear()

    def send_reset(self) -> None:
        """Has the sink reset, once what was sent before has arrived."""
        self._loop.remove_reader(self._source)
        self._link.withdraw(self)
        self._link.mark(self._reset_arrived)

    def read(self, size_bytes: int) -> bytes | None:
        """The link has room."""
        if self.stopped:
            return None
        if self._undelivered_bytes > UNDELIVERED_BYTES_MAX:
            self._paused = True
            return None
        try:
            chunk = self._source.recv(size_bytes)
        except BlockingIOError:
            self.start_reading()
            return None
        except OSError:
            self.send_reset()
            return None
        if not chunk:
            self._link.mark(self._end_arrived)
            return None
        return chunk

    def deliver(self, chunk: memoryview) -> None:
        """Bytes have crossed the link."""
        if self.stopped or self.finished:
            return
        self._undelivered.append(chunk)
        self._undelivered_bytes += len(chunk)
        if self._open and len(self._undelivered) == 1:
            self._write()

    def _readable(self) -> None:
        self._loop.remove_reader(self._source)
        self._link.offer(self)

    def _write(self) -> None:
        try:
            while self._undelivered:
                chunk = self._undelivered[0]
                sent = self._sink.send(chunk)
                self._undelivered_bytes -= sent
                if sent == len(chunk):
                    self._undelivered.popleft()
                else:
                    self._undelivered[0] = chunk[sent:]
        except BlockingIOError:
            self._loop.add_writer(self._sink, self._writable)
        except OSError:
            self._connection.refused(self)
            return
        if self._paused and self._undelivered_bytes <= UNDELIVERED_BYTES_MAX:
            self._paused = False
            self.start_reading()
        if self._ending and not self._undelivered:
            self._finish()

    def _writable(self) -> None:
        self._loop.remove_writer(self._sink)
        self._write()

    def _end_arrived(self) -> None:
        self._ending = True
        if not self.stopped and self._open and not self._undelivered:
            self._finish()

    def _finish(self) -> None:
        self.finished = True
        with contextlib.suppress(OSError):  # it may be gone already
            self._sink.shutdown(socket.SHUT_WR)
        self._connection.half_finished()

    def _reset_arrived(self) -> None:
        if not self.stopped:
            self._connection.abort()
