"""LZ4 where it makes a frame smaller, and no more work than a glance where it does not.

Per segment: while frames shrink, each is compressed; after one that did not, so many are passed by
(1, 2, 4, ... `PASS_MAX`) before it is tried again, since data changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from dsm.wire.frame import Buffer, compress, encode_frame
from dsm.wire.v1 import wire_pb2 as pb
from dsm_server.exports import Exported

WORTHWHILE = 0.9
"""Compressed over plain: above it, the time to decompress eats what the path saves."""

PASS_MAX = 64
SIZE_MIN = 512
"""Smaller payloads cost a packet either way."""


@dataclass(slots=True)
class _Gate:
    passing: int = 0
    penalty: int = 1


class Compressor:
    """Remembers for each segment whether compressing has paid."""

    def __init__(self) -> None:
        self._gates: WeakKeyDictionary[Exported, _Gate] = WeakKeyDictionary()

    def encode(self, exported: Exported, header: pb.FrameHeader, pieces: Sequence[Buffer]) -> bytes:
        """The encoded frame, compressed or not."""
        size = sum(len(piece) for piece in pieces)
        gate = self._gates.setdefault(exported, _Gate())
        if size < SIZE_MIN or gate.passing:
            gate.passing = max(0, gate.passing - 1)
            return encode_frame(header, pieces)
        packed = compress(pieces)
        if len(packed) > WORTHWHILE * size:
            gate.passing = gate.penalty
            gate.penalty = min(2 * gate.penalty, PASS_MAX)
            return encode_frame(header, pieces)
        gate.penalty = 1
        header.codec = pb.LZ4
        header.decoded_bytes = size
        return encode_frame(header, (packed,))
