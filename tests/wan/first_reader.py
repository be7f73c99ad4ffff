"""Run on one host of a WAN: opens a region by its address, reads 1 KiB, prints how many seconds."""

from __future__ import annotations

import sys
import tempfile
import time

import dsm_client


def main(address: str, **options: str | bool) -> None:
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        with dsm_client.open(
            f"dsm://{address}/region", map_local=False, cache=cache, **options
        ) as region:
            first = bytes(region.read(0, 1024))
            took_s = time.perf_counter() - started
    assert first == bytes(range(256)) * 4
    print(took_s)


if __name__ == "__main__":
    address, ca = sys.argv[1:]
    main(address, **{"ca": ca} if ca else {"insecure": True})
