"""`Node`: exports a root directory from within any program; `dsm-node` is the same as a process.

It runs one event loop on a thread of its own. Producers in the same program go straight to the
segment files and never through the loop.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dsm.errors import Closed, DsmError, UsageError
from dsm.locality import remove_proof, write_proof
from dsm.segment import (
    RegionWriter,
    RingWriter,
    create_region,
    create_ring,
    delete_segment,
    open_segment,
)
from dsm.wire.address import is_loopback, join_host_port, split_host_port
from dsm.wire.protocol import BULK_LANE, DATA_SERVICE, LANE, MESSAGE_OVERHEAD_BYTES, Limits
from dsm.wire.v1 import wire_pb2 as pb
from dsm.wire.v1.wire_pb2_grpc import add_ControlServicer_to_server
from dsm_server.certificate import Certificate
from dsm_server.compression import Compressor
from dsm_server.congestion import Congestion
from dsm_server.control import Control
from dsm_server.exports import Exports
from dsm_server.leases import Leases
from dsm_server.pull import PullStream

ROOT = "/dev/shm/dsm"

STAGING_BYTES = 1 << 30
"""Copies of region versions that could not be pinned."""

GRACE_S = 2.0
"""For streams to end by themselves when the node closes."""

START_S = 10.0


class Node:
    """Exports the segments under `root` at `listen` ("host:port"; port 0: any free one).

    A context manager. `address` is where it listens. With `tls_cert` and `tls_key` (PEM files; the
    certificate may be followed by its chain) the port is TLS, and they are read again when they
    were renewed. Plaintext beyond loopback needs `insecure=True`. Either way segments are readable
    by whoever reaches the port.

    Raises `UsageError` for an address that is not allowed or taken, and for unusable files.
    """

    def __init__(
        self,
        listen: str = "127.0.0.1:7400",
        root: str | Path = ROOT,
        *,
        insecure: bool = False,
        tls_cert: str | Path = "",
        tls_key: str | Path = "",
        staging_bytes: int = STAGING_BYTES,
        limits: Limits | None = None,
    ) -> None:
        host, _ = split_host_port(listen)
        self._certificate = _certificate(tls_cert, tls_key)
        if self._certificate and insecure:
            raise UsageError(
                "insecure=True (--insecure) means plaintext; "
                "leave it out, or tls_cert (--tls-cert) and tls_key (--tls-key)"
            )
        if not (self._certificate or insecure or is_loopback(host)):
            raise UsageError(
                f"listening at {listen} would send segments in plaintext beyond this host; "
                "give tls_cert and tls_key (--tls-cert, --tls-key), "
                "or say insecure=True (--insecure) if the network is trusted"
            )
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self.address = ""
        self._listen = listen
        self._limits = limits or Limits()
        self._staging_bytes = staging_bytes
        self._loop = _new_loop()
        self._closing = asyncio.Event()
        self._congestion = Congestion()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dsm-node", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_S):
            raise DsmError(f"the node did not start within {START_S:.0f} s")
        if self._error is not None:
            raise self._error

    # ── producers ──

    def create_ring(self, name: str, *, capacity_bytes: int, **options: Any) -> RingWriter:
        """Create a ring and open it for writing; see `dsm.segment.create_ring`."""
        self._check_open()
        return create_ring(self.root, name, capacity_bytes=capacity_bytes, **options)

    def create_region(
        self,
        name: str,
        *,
        size_bytes: int | None = None,
        dtype: str = "",
        shape: tuple[int, ...] = (),
        metadata: Mapping[str, str] | None = None,
        **options: Any,
    ) -> RegionWriter:
        """Create a region and open it for writing; see `dsm.segment.create_region`."""
        self._check_open()
        return create_region(
            self.root,
            name,
            size_bytes=size_bytes,
            dtype=dtype,
            shape=shape,
            metadata=metadata or {},
            **options,
        )

    def open(self, name: str) -> RingWriter | RegionWriter:
        """Open a segment that is there already for writing."""
        writer = open_segment(self.root, name, write=True)
        assert isinstance(writer, RingWriter | RegionWriter)
        return writer

    def delete(self, name: str) -> None:
        """Remove a segment; whoever has it mapped keeps what is mapped."""
        delete_segment(self.root, name)

    # ── life ──

    def close(self) -> None:
        """End all streams with "going away", then stop. The segments stay."""
        if self._thread.is_alive():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()

    def wait(self) -> None:
        """Block until the node is closed."""
        self._thread.join()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "open" if self._thread.is_alive() else "closed"
        return f"<Node {self.address} root={str(self.root)!r} {state}>"

    def _check_open(self) -> None:
        if not self._thread.is_alive():
            raise Closed(f"node {self.address} is closed")

    # ── the loop's thread ──

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._error = error
            if self._ready.is_set():
                raise
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        exports = Exports(self.root)
        leases = Leases(self._staging_bytes)
        proof = write_proof(self.root)
        try:
            control = Control(
                exports, leases, self._limits, secrets.token_hex(8), proof, self._closing
            )
            server = self._server(exports, leases, control)
            self.address = self._bind(server)
            await server.start()
            self._congestion.listening(split_host_port(self.address)[1])
            control.congestion = self._congestion.in_force
            self._ready.set()
            await self._closing.wait()
            await server.stop(GRACE_S)
        finally:
            remove_proof(proof)
            leases.close()
            exports.close()

    def _bind(self, server: aio.Server) -> str:
        host, _ = split_host_port(self._listen)
        try:
            if self._certificate is None:
                port = server.add_insecure_port(self._listen)
            else:
                port = server.add_secure_port(self._listen, self._certificate.credentials())
        except RuntimeError as error:
            raise UsageError(
                f"cannot listen at {self._listen}; is another node running there? ({error})"
            ) from None
        return join_host_port(host, port)

    def _server(self, exports: Exports, leases: Leases, control: Control) -> aio.Server:
        limits = self._limits
        size = limits.frame_bytes_max + MESSAGE_OVERHEAD_BYTES
        server = aio.server(
            options=[
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", size),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
            ]
        )
        add_ControlServicer_to_server(control, server)
        compressor = Compressor()

        async def pull(requests: Any, context: Any) -> None:
            if (LANE, BULK_LANE) in (context.invocation_metadata() or ()):
                self._congestion.bulk(context.peer())
            await PullStream(context, exports, leases, compressor, limits, self._closing).run()

        handlers: dict[str, Any] = {"Pull": grpc.stream_stream_rpc_method_handler(pull)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(DATA_SERVICE, handlers),)
        )
        self._add_standard_services(server)
        return server

    def _add_standard_services(self, server: aio.Server) -> None:
        checker = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checker, server)
        names = [service.full_name for service in pb.DESCRIPTOR.services_by_name.values()]
        for name in ("", *names):
            task = checker.set(name, health_pb2.HealthCheckResponse.SERVING)
            self._loop.create_task(task)
        reflection.enable_server_reflection(
            (*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )


def _certificate(cert: str | Path, key: str | Path) -> Certificate | None:
    if bool(cert) != bool(key):
        given, lacking = ("cert", "key") if cert else ("key", "cert")
        raise UsageError(
            f"tls_{given} (--tls-{given}) needs tls_{lacking} (--tls-{lacking}) beside it: "
            "a certificate and its key, as PEM files"
        )
    return Certificate(Path(cert), Path(key)) if cert else None


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
