"""Blocks as a client hands them out; their payloads may still be away."""

from __future__ import annotations

from collections.abc import Callable

from dsm.segment import Block


class LazyBlock(Block):
    """A block whose header is here; the rest is fetched when it is touched."""

    __slots__ = ("_head", "_load", "_whole")

    def __init__(self, head: Block, header_bytes: int, load: Callable[[int], Block]) -> None:
        self.seq = head.seq
        self.timestamp_ns = head.timestamp_ns
        self.header_bytes = header_bytes
        self._fields = head._fields
        self._source = None
        self._head = head
        self._load = load
        self._whole: Block | None = None

    @property
    def header(self) -> memoryview:
        return self._head.data[: self.header_bytes]

    @property
    def data(self) -> memoryview:  # type: ignore[override]
        """Header and payload; fetches the payload."""
        if self._whole is None:
            self._whole = self._load(self.seq)
        return self._whole.data

    @property
    def payload(self) -> memoryview:
        return self.data[self.header_bytes :]

    def loaded(self, whole: Block) -> None:
        """It was fetched otherwise."""
        self._whole = whole

    @property
    def touched(self) -> bool:
        """The payload is here."""
        return self._whole is not None

    def __len__(self) -> int:
        return len(self._head.data) if self._fields is None else self._fields[3]


class WatchedBlock(Block):
    """A whole block that remembers whether anybody looked past its header."""

    __slots__ = ("_bytes", "touched")

    def __init__(self, block: Block, header_bytes: int) -> None:
        self._bytes = block.data
        self.seq = block.seq
        self.timestamp_ns = block.timestamp_ns
        self.header_bytes = header_bytes
        self._fields = block._fields
        self._source = block._source
        self.touched = False

    @property
    def header(self) -> memoryview:
        return self._bytes[: self.header_bytes]

    @property
    def data(self) -> memoryview:  # type: ignore[override]
        self.touched = True
        return self._bytes

    @property
    def payload(self) -> memoryview:
        self.touched = True
        return self._bytes[self.header_bytes :]

    def __len__(self) -> int:
        return len(self._bytes)
