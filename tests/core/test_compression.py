"""The choice of a codec against an oracle that knows what each would bring."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsm.core.compression import (
    GAIN,
    PAUSE_MAX,
    RAW_RUN,
    Codec,
    CodecChoice,
    Received,
    item_bytes,
)

RAW, LZ4, BLOSC = Codec.RAW, Codec.LZ4, Codec.BLOSC
BOTH = (BLOSC, LZ4)
FRAME = 1 << 20
NODE_S = FRAME / 1e9
"""What a frame takes a node and a client beside codec and path."""


@dataclass(frozen=True)
class Data:
    """What each codec leaves of it, and how fast (bytes a second)."""

    ratio: Mapping[Codec, float]
    speed: Mapping[Codec, float]

    def seconds(self, codecs: Sequence[Codec], path: float) -> float:
        """Of a frame in the pipeline: node, codecs, path."""
        sent = min([1.0, *(self.ratio[codec] for codec in codecs)])  # raw, if it does not shrink
        encoding_s = sum(FRAME / self.speed[codec] for codec in codecs)
        return max(NODE_S, encoding_s, sent * FRAME / path)

    def oracle_s(self, path: float) -> float:
        return min(self.seconds(codecs, path) for codecs in ((), (LZ4,), (BLOSC,)))


TEXT = Data({LZ4: 0.44, BLOSC: 0.87}, {LZ4: 0.45e9, BLOSC: 2e9})
FLOATS = Data({LZ4: 1.0, BLOSC: 0.6}, {LZ4: 15e9, BLOSC: 2e9})
RANDOM = Data({LZ4: 1.0, BLOSC: 1.0}, {LZ4: 15e9, BLOSC: 5e9})
"""As measured; see `dsm.codec`."""


@dataclass
class Transfer:
    """Frames of one segment, one after the other, over a path whose rate is known, or measured as a
    client does: the most of what came through lately."""

    path: float
    measured: bool = False
    codecs: tuple[Codec, ...] = BOTH
    noise: Callable[[], float] = lambda: 1.0
    choice: CodecChoice = field(default_factory=CodecChoice)
    seconds: float = 0.0
    used: list[Codec] = field(default_factory=list)
    tried: list[tuple[int, Codec]] = field(default_factory=list)
    came: deque[float] = field(default_factory=lambda: deque(maxlen=20))

    def send(self, data: Data, frames: int) -> Transfer:
        for _ in range(frames):
            self._send(data)
        return self

    def _send(self, data: Data) -> None:
        rate = max(self.came, default=0.0) if self.measured else self.path
        codecs = self.choice.choose(self.codecs, rate)
        took_s = data.seconds(codecs, self.path)
        sizes = {RAW: FRAME}
        for codec in codecs:
            sizes[codec] = max(1, int(FRAME * data.ratio[codec] * self.noise()))
            self.choice.measured(codec, FRAME, sizes[codec], FRAME / data.speed[codec])
        sent = min(sizes, key=sizes.__getitem__)
        self.came.append(sizes[sent] / took_s)
        self.seconds += took_s
        self.used.append(sent)
        self.tried += [(len(self.used), codec) for codec in codecs]

    def share(self, codec: Codec, last: int) -> float:
        return self.used[-last:].count(codec) / last


paths = st.floats(1e6, 1e9)
ratios = st.fixed_dictionaries({codec: st.floats(0.01, 1.01) for codec in BOTH})
speeds = st.fixed_dictionaries({codec: st.floats(4e8, 2e10) for codec in BOTH})
datas = st.builds(Data, ratios, speeds)


@settings(deadline=None, max_examples=50)
@given(datas, paths)
def test_it_is_nearly_as_fast_as_the_oracle(data: Data, path: float) -> None:
    """Beside trials it loses only what is not worth a codec."""
    frames = 1000
    transfer = Transfer(path).send(data, frames)
    assert transfer.seconds <= 1.05 * GAIN * frames * data.oracle_s(path)


@settings(deadline=None, max_examples=50)
@given(datas, datas, paths)
def test_it_follows_data_that_changes(before: Data, after: Data, path: float) -> None:
    frames = 1000
    transfer = Transfer(path).send(before, 500)
    transfer.seconds = 0.0
    transfer.send(after, frames)
    unnoticed_s = PAUSE_MAX * after.seconds((), path)
    assert transfer.seconds <= 1.05 * GAIN * frames * after.oracle_s(path) + unnoticed_s


@settings(deadline=None, max_examples=40)
@given(datas, st.floats(1e6, 4e9))
def test_a_path_that_is_measured_through_the_codec(data: Data, path: float) -> None:
    """The rate is that of what came: while a codec limits, it says nothing of the path."""
    frames = 2000
    transfer = Transfer(path, measured=True).send(data, 1200)
    transfer.seconds = 0.0
    transfer.send(data, frames)
    assert transfer.seconds <= 1.15 * GAIN * frames * data.oracle_s(path)


@pytest.mark.parametrize(
    ("data", "path", "codec"),
    [
        (TEXT, 12.5e6, LZ4),
        (TEXT, 1e9, RAW),  # it outruns LZ4
        (FLOATS, 12.5e6, BLOSC),
        (FLOATS, 1e9, BLOSC),
        (RANDOM, 12.5e6, RAW),
        (Data({LZ4: 0.95, BLOSC: 0.93}, {LZ4: 4e9, BLOSC: 2e9}), 12.5e6, RAW),  # not worth it
    ],
)
def test_what_is_chosen(data: Data, path: float, codec: Codec) -> None:
    codecs = (LZ4,) if data is TEXT else BOTH
    assert Transfer(path, codecs=codecs).send(data, 200).share(codec, 100) >= 0.95


def test_a_path_that_is_not_known_is_taken_to_be_slow() -> None:
    choice = CodecChoice()
    for codec in choice.choose(BOTH, 0):
        choice.measured(codec, FRAME, int(TEXT.ratio[codec] * FRAME), FRAME / TEXT.speed[codec])
    assert choice.choose(BOTH, 1e9) == [BLOSC]
    assert choice.choose((LZ4,), 0) == [LZ4]
    assert choice.choose((), 0) == []


def test_what_does_not_pay_is_tried_less_and_less() -> None:
    transfer = Transfer(12.5e6, codecs=(LZ4,)).send(RANDOM, 1000)
    tried = [n for n, _ in transfer.tried]
    assert [b - a for a, b in pairwise(tried)][:9] == [2, 3, 5, 9, 17, 33, 65, 65, 65]
    transfer.send(TEXT, PAUSE_MAX + 10)
    assert transfer.share(LZ4, 5) == 1, "soon after the data has changed"


def test_frames_that_shrink_otherwise_have_the_other_codec_tried_at_once() -> None:
    words = Data({LZ4: 0.5, BLOSC: 1.0}, TEXT.speed)
    transfer = Transfer(12.5e6).send(words, 500)
    assert transfer.share(LZ4, 50) > 0.9
    assert transfer.send(FLOATS, 4).share(BLOSC, 2) == 1


def test_a_codec_that_was_slow_once_is_not_held_to_it() -> None:
    """The machine was busy; what the frames shrink to is the same."""
    slow, fast = Data({LZ4: 0.4}, {LZ4: 0.2e9}), Data({LZ4: 0.4}, {LZ4: 1e9})
    transfer = Transfer(0.5e9, codecs=(LZ4,)).send(slow, 1000)
    assert transfer.send(fast, 70).share(LZ4, 2) == 1


def test_frames_that_are_never_alike_are_no_change() -> None:
    chance = random.Random(1)
    transfer = Transfer(12.5e6, noise=lambda: chance.choice([0.3, 1.0])).send(TEXT, 1000)
    assert transfer.share(LZ4, 500) >= 0.95


def test_one_client_with_a_fast_path_does_not_try_what_another_uses() -> None:
    """They share what is known of the segment."""
    slow, fast = Transfer(12.5e6, codecs=(LZ4,)), Transfer(2e9, codecs=(LZ4,))
    fast.choice = slow.choice
    for _ in range(500):
        slow.send(TEXT, 1)
        fast.send(TEXT, 1)
    assert slow.share(LZ4, 200) > 0.95
    assert len(fast.tried) < 10


def test_a_path_that_outruns_the_codec_is_found_out() -> None:
    transfer = Transfer(1e9, measured=True, codecs=(LZ4,)).send(TEXT, 1500)
    assert transfer.used[:1000].count(LZ4) > 900, "at first it is not known"
    assert transfer.share(RAW, 100) >= 0.95
    slower = Transfer(0.3e9, measured=True, codecs=(LZ4,)).send(TEXT, 20_000)
    assert slower.share(RAW, 10_000) <= 0.03, "and where it does not, little is spent on that"
    assert slower.used.count(RAW) >= RAW_RUN * 0.44
    zeros = Data({LZ4: 0.02}, {LZ4: 1e9})
    transfer = Transfer(0.3e9, measured=True, codecs=(LZ4,)).send(zeros, 1500)
    assert transfer.seconds <= 1.03 * 1500 * zeros.seconds((LZ4,), 0.3e9)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        ("<f4", 4),
        (">f8", 8),
        ("=i2", 2),
        ("u2", 2),
        ("<c16", 16),
        ("<M8[ns]", 8),
        ("|u1", 0),
        ("|b1", 0),
        ("<U8", 0),
        ("|S4", 0),
        ("<f12", 0),
        ("<f" + 300 * "4", 0),
        ("", 0),
    ],
)
def test_numbers_have_an_item_size(dtype: str, size: int) -> None:
    assert item_bytes(dtype) == size


def test_what_was_received() -> None:
    received = Received()
    assert received.ratio == 1.0
    received.arrived(RAW, 160, 100)
    assert received.ratio == 1.0, "headers are not the data's"
    for _ in range(60):
        received.arrived(LZ4, 300, 1000)
    assert received.codec is LZ4
    assert received.ratio == pytest.approx(0.3, abs=0.01)
