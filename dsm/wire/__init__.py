"""What crosses the network, and how gRPC carries it.

gRPC is loaded here first, before anything else imports it, because it reads once, when it is
loaded, which I/O engine to use. Its default hands every event from a polling thread to a pool of
threads to the one that waits, and wakes for each segment that arrives; without, the thread that
waits polls by itself, and for the rest of a message it lets the kernel wait. Eight connections at
500 Mbit/s x 80 ms: 0.9 CPU-s/GB in a bare gRPC client instead of 2.4, and 35,000 context switches
instead of 230,000 (gRPC 1.85).

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
    "tcp_frame_size_tuning",
    "tcp_rcv_lowat",
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
