"""A node on a host that allows nobody BBR: its sockets refuse it, as the kernel would."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import Any


class Refusing(socket.socket):
    """Every socket that is made from here on."""

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        if (level, option) == (socket.IPPROTO_TCP, socket.TCP_CONGESTION) and value[0] == b"bbr":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        super().setsockopt(level, option, *value)


if __name__ == "__main__":
    socket.socket = Refusing  # type: ignore[misc]
    from dsm_server import daemon

    sys.exit(daemon.main())
