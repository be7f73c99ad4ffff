"""What crosses the network, and how gRPC carries it.

gRPC is loaded here first, before anything else imports it, because it reads once, when it is
loaded, which I/O engine to use. By default a thread that polls hands each event to a pool of
threads, and that to the one that waits for it; otherwise the one that waits polls. A bare gRPC
client with eight connections at 500 Mbit/s x 80 ms takes 1.3 CPU-s/GB instead of 2.4, with a third
of the context switches (gRPC 1.85). Having the kernel hold back parts of messages as well
(`tcp_rcv_lowat`) takes it to 0.9, but a cold 10 MB takes 45 ms longer.

gRPC also writes a line to stderr for each handshake that fails: a hundred a second where a client
takes a node for one without TLS. Our errors say it too, so it is told not to.

Whoever sets these variables, or imports gRPC before us, keeps what he has.
"""

from __future__ import annotations

import os

POLLED_BY_WHO_WAITS = (
    "-event_engine_client",
    "-event_engine_listener",
    "-event_engine_callback_cq",
)

SETTINGS = {"GRPC_EXPERIMENTS": ",".join(POLLED_BY_WHO_WAITS), "GRPC_VERBOSITY": "NONE"}


def _load_grpc() -> None:
    """The environment is what gRPC reads; child processes are not to inherit it from us."""
    ours = {name: value for name, value in SETTINGS.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        import grpc  # noqa: F401
    finally:
        for name in ours:
            del os.environ[name]


_load_grpc()
