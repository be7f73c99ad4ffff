"""Blocks and pages whose content follows from a number, so that any reader can check them."""

from __future__ import annotations

import random

_NOISE = random.Random(7).randbytes(1 << 16)


def block(seq: int, length: int | None = None) -> bytes:
    """Content of block `seq`; its length too, unless given."""
    size = 16 + seq * 7919 % 500 if length is None else length
    start = seq * 31 % 4096
    return (seq.to_bytes(8, "little") + _NOISE[start : start + size])[:size]


def page(version: int, number: int, page_bytes: int = 4096) -> bytes:
    start = (version * 131 + number * 17) % 8192
    return (version.to_bytes(8, "little") + _NOISE[start : start + page_bytes])[:page_bytes]
