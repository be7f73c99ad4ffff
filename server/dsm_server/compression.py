"""Compression of frames, where it makes a transfer faster: `dsm.core.compression` decides.

One choice for each segment and part: the headers of packets shrink where their payloads do not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from dsm.codec import AVAILABLE, Buffer, compress
from dsm.core.compression import GAIN, Codec, CodecChoice, item_bytes
from dsm.wire.frame import CODECS, encode_frame
from dsm.wire.v1 import wire_pb2 as pb
from dsm_server.exports import Exported

SIZE_MIN = 512
"""Smaller payloads cost a packet either way."""


class Compressor:
    """Remembers for each segment what compressing has brought."""

    def __init__(self) -> None:
        self._choices: WeakKeyDictionary[Exported, dict[int, CodecChoice]] = WeakKeyDictionary()

    def encode(
        self,
        exported: Exported,
        header: pb.FrameHeader,
        pieces: Sequence[Buffer],
        codecs: Sequence[Codec],
        path_rate: float,
    ) -> bytes:
        """The encoded frame, compressed with one of `codecs` or not.

        `path_rate`: bytes a second that the client gets over its path; 0: not known.
        """
        sent, size = pieces, sum(len(piece) for piece in pieces)
        item = 0 if header.part == pb.HEADER else item_bytes(exported.info.dtype)
        usable = [c for c in codecs if c in AVAILABLE and (item or c is not Codec.BLOSC)]
        if size < SIZE_MIN or not usable:
            return encode_frame(header, pieces)
        choice = self._choices.setdefault(exported, {}).setdefault(header.part, CodecChoice())
        room = size / GAIN
        for codec in choice.choose(usable, path_rate):
            began = time.thread_time()  # what others do meanwhile is not the codec's
            packed = compress(codec, pieces, item)
            choice.measured(codec, size, len(packed), time.thread_time() - began)
            if len(packed) <= room:
                room, sent = len(packed), (packed,)
                header.codec, header.decoded_bytes = CODECS[codec], size
        return encode_frame(header, sent)
