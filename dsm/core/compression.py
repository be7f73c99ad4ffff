"""Which codec makes a transfer faster, from what each did lately and how fast the path is.

A transfer is a pipeline, the node's codec and then the path, so its slower part is its rate. With
C the codec's speed (plain bytes a second), r what it leaves of a byte, P the path's rate:

    rate ▲ of plain bytes               raw      P
         │        ╭───────── C          a codec  min(C, P / r)
     P/r │      ╱ :       ╱ P
         │    ╱   :    ╱                The codec gains where P < C, at the most 1 / r; from C on
         │  ╱     : ╱                   the path outruns it. Decoders are two to ten times as fast
         │╱    ╱  :                     as their encoders, so they never are the slower part.
         └────────┴──────▶ P

C and r are measured, for each segment and codec, on the frames that it was tried on. A codec that
is not in use is tried on one frame now and then (beside the one in use: the smaller is sent), since
data changes, after pauses that double; at once where frames suddenly shrink otherwise.

P is what the client measured, so while a codec is the slower part, P says what the codec let
through (C × r) and not what the path could carry. Then a run of frames goes raw now and then: if
the path takes more, the client's next requests say so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

GAIN = 1.1
"""Less is not worth a codec's time on both sides, and is within what is known of a path's rate."""

MEMORY = 7 / 8
"""Of what was measured, kept at each frame of the segment: half of what is known is from the last
five frames, if it was in use. One is little evidence (others need the core too), fifty are past."""

PAUSE_MAX = 64
"""Frames between trials of a codec that does not pay. A trial takes the time of three frames at the
most (LZ4 makes 0.4 GB/s of text, a node sends 1 GB/s), so all of them take a twentieth."""

CHANGE_MIN = 0.1
"""A ratio that is off by less is the same data, however alike its frames were..."""

CHANGE_DEVIATIONS = 3.0
"""...and where they never are alike, one that is off by less than this many mean deviations."""

BOUND = 0.5
"""Of what the codec puts out alone: if as much arrives, it may be the codec that limits. A half,
since node and client have as much to do again with every byte."""

RAW_RUN = 64
"""Frames as they are compressed, of which a raw run has the bytes, until the path's rate was
measured without the codec. On a path as fast as a codec they are some round trips of a campus, and
a part of one across an ocean (where it is not found out)."""

RAW_PAUSE = 1024
RAW_PAUSE_MAX = 16_384
"""Frames between such runs, twice as many after each: where the path does not take more, they cost
a sixteenth of the time at first and a 250th later."""

ITEM_BYTES = (2, 4, 8, 16)
"""Of numbers whose bits are worth sorting; single bytes have no empty upper half."""

_NUMERIC = re.compile(r"[<>=|]?[iufcmM](\d+)(\[.*\])?")


class Codec(Enum):
    """How a frame's payload may be encoded."""

    RAW = "raw"
    LZ4 = "lz4"
    BLOSC = "blosc"
    """Bit-shuffled LZ4, for numbers."""


def item_bytes(dtype: str) -> int:
    """Size of the numbers that a segment holds, from its numpy type string; 0: none of a size in
    `ITEM_BYTES`."""
    numeric = _NUMERIC.fullmatch(dtype)
    size = int(numeric[1]) if numeric and len(numeric[1]) < 3 else 0
    return size if size in ITEM_BYTES else 0


@dataclass(slots=True)
class _Record:
    """What one codec made of frames lately: sums that forget."""

    plain_bytes: float = 0.0
    packed_bytes: float = 0.0
    seconds: float = 0.0
    deviation: float = 0.0
    age: int = 0
    """Frames since it was tried."""
    pause: int = 0

    @property
    def ratio(self) -> float:
        return self.packed_bytes / self.plain_bytes

    def gain(self, path_rate: float) -> float:
        """Of a transfer's rate over raw: min(C, P / r) / P."""
        if not self.plain_bytes:
            return 0.0
        return self.plain_bytes / max(path_rate * self.seconds, self.packed_bytes)

    def is_bound(self, path_rate: float) -> bool:
        """It, and not the path, may be what limits."""
        return path_rate * self.seconds >= BOUND * self.packed_bytes

    def measured(self, plain_bytes: int, packed_bytes: int, seconds: float) -> bool:
        """True where the data is not what it was."""
        off = abs(packed_bytes / plain_bytes - self.ratio) if self.plain_bytes else 0.0
        changed = off > max(CHANGE_MIN, CHANGE_DEVIATIONS * self.deviation)
        keep = 0.0 if changed else MEMORY**self.age
        self.plain_bytes = keep * self.plain_bytes + plain_bytes
        self.packed_bytes = keep * self.packed_bytes + packed_bytes
        self.seconds = keep * self.seconds + seconds
        self.deviation = MEMORY * self.deviation + (1 - MEMORY) * off
        self.age = 0
        return changed


class CodecChoice:
    """For one segment. Ask `choose` for every frame; after encoding, tell `measured` of each."""

    def __init__(self) -> None:
        self._records: dict[Codec, _Record] = {Codec.LZ4: _Record(), Codec.BLOSC: _Record()}
        self._raw_in = self._raw_pause = RAW_PAUSE

    def choose(self, codecs: Sequence[Codec], path_rate: float) -> list[Codec]:
        """Encode the next frame with each of these and send the smallest; with none: send it raw.

        `codecs` are those that there are. `path_rate` in bytes a second on the wire; 0: not known,
        and taken to be slow.
        """
        best = self._best(codecs, path_rate)
        if best is not None and self._is_raw_due(self._records[best], path_rate):
            return []
        chosen = []
        for codec in codecs:
            record = self._records[codec]
            record.age += 1
            if codec is best:
                chosen.append(codec)
            elif record.age > record.pause:
                record.pause = min(max(1, 2 * record.pause), PAUSE_MAX)
                chosen.append(codec)
        return chosen

    def measured(self, codec: Codec, plain_bytes: int, packed_bytes: int, seconds: float) -> None:
        """What it made of a frame, in what time of one core."""
        if self._records[codec].measured(plain_bytes, packed_bytes, seconds):
            self._raw_in = self._raw_pause = RAW_PAUSE
            for other, record in self._records.items():
                if other is not codec:
                    record.pause = 0

    def _best(self, codecs: Sequence[Codec], path_rate: float) -> Codec | None:
        gains = {codec: self._records[codec].gain(path_rate) for codec in codecs}
        best = max(gains, key=gains.__getitem__, default=None)
        return best if best is not None and gains[best] >= GAIN else None

    def _is_raw_due(self, best: _Record, path_rate: float) -> bool:
        """The path's rate is to be measured without the codec, which may be what limits it."""
        if not best.is_bound(path_rate):
            return False
        self._raw_in -= 1
        if self._raw_in < -max(1.0, RAW_RUN * best.ratio):
            self._raw_pause = min(2 * self._raw_pause, RAW_PAUSE_MAX)
            self._raw_in = self._raw_pause
        return self._raw_in < 0


class Received:
    """What came of one segment: how much smaller it was on the wire than decoded."""

    def __init__(self) -> None:
        self.codec = Codec.RAW
        """Of the newest frame."""
        self._wire_bytes = 0.0
        self._decoded_bytes = 0.0

    def arrived(self, codec: Codec, wire_bytes: int, decoded_bytes: int) -> None:
        self.codec = codec
        self._wire_bytes = MEMORY * self._wire_bytes + wire_bytes
        self._decoded_bytes = MEMORY * self._decoded_bytes + decoded_bytes

    @property
    def ratio(self) -> float:
        """Wire bytes of a decoded byte, lately; at most 1: what frames add is not the data's."""
        if self._wire_bytes >= self._decoded_bytes:
            return 1.0
        return self._wire_bytes / self._decoded_bytes
