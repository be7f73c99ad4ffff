"""The process on host b that publishes for a live tail, once it is told to: a line on its input."""

from __future__ import annotations

import sys

from .peers import SERVERS
from .workloads import TAIL_BYTES


def main() -> None:
    server, folder, host, port, rate_hz, count = sys.argv[1:]
    produce = SERVERS[server].produce
    assert produce is not None
    sys.stdin.readline()
    produce(folder, host, int(port), float(rate_hz), int(count), TAIL_BYTES)


if __name__ == "__main__":
    main()
