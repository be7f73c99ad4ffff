"""One connection through the relay: two sockets, and a half for each direction.

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
from collections.abc import Callable
from typing import Any

from .relay_link import SharedLink

UNDELIVERED_BYTES_MAX = 256 * 1024  # a reader this far behind has its sender paused


class Connection:
    """Two sockets and the two halves between them."""

    def __init__(
        self,
        client: socket.socket,
        target: socket.socket,
        address: Any,
        links: tuple[SharedLink, SharedLink],
        ended: Callable[[Connection], None],
    ) -> None:
        """`target` will be connected to `address` when it is time; `links` lead there and back."""
        self._there, self._back = links
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._client, self._target, self._address = client, target, address
        for end in (client, target):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._forward = Half(self, client, target, self._there)
        self._backward = Half(self, target, client, self._back)
        self._backward.open()
        self._there.mark(self._syn_arrived)

    def half_finished(self) -> None:
        """One direction was delivered to its end."""
        if self._forward.finished and self._backward.finished:
            self._close()

    def refused(self, half: Half) -> None:
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
        self._ended(self)

    # -- the handshake --

    def _syn_arrived(self) -> None:
        if not self._forward.stopped:
            self._back.mark(self._syn_ack_arrived)

    def _syn_ack_arrived(self) -> None:
        if not self._forward.stopped:
            self._there.mark(self._ack_arrived)
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


class Half:
    """One direction of a connection: reads one socket, writes to the other.

    Its reader may be slower than the link. Then bytes gather in `_undelivered`, and the source
    is not read until they are fewer again.
    """

    def __init__(
        self,
        connection: Connection,
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
