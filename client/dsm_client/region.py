"""`Region`: what `session.open` returns for a region."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import index
from typing import Any

from dsm.errors import OutOfRange, UsageError
from dsm.model import Kind
from dsm.segment import RegionSnapshot
from dsm_client.handle import Handle
from dsm_client.loop import background
from dsm_client.mapped import MappedRegion
from dsm_client.sources import RegionSource


class Region(Handle):
    """A region, wherever it is."""

    kind = Kind.REGION
    _source: RegionSource

    @property
    def version(self) -> int:
        """The newest version that was announced."""
        return self.position.version

    @property
    def nbytes(self) -> int:
        return self.info.size_bytes

    def read(self, offset: int = 0, length: int | None = None) -> memoryview:
        """These bytes, read-only, all of one version: the newest that was announced.

        A view of the shadow, which stays as it is while it is held; of a mapped region, a checked
        copy (`snapshot` is without a copy). Raises `OutOfRange`, `ChecksumMismatch`,
        `NodeUnavailable`, `EpochGone`.
        """
        source = self._source
        length = self.check_extent(offset, length)
        view = source.present(offset, length)
        return background().run(source.fetch(offset, length)) if view is None else view

    def read_many(self, ranges: Iterable[tuple[int, int]]) -> list[memoryview]:
        """The bytes of each (offset, length), in the order given, all of one version, as `read`.

        All that is missing is fetched together: in one round trip as far as the path's window
        reaches, neighbours and overlaps once. Raises as `read`; then none is returned.
        `BudgetExceeded` for more than the shadows may take.
        """
        source = self._source
        given = self.check_ranges(ranges)
        views = source.present_all(given)
        return background().run(source.fetch_all(given)) if views is None else views

    def will_need(self, offset: int = 0, length: int | None = None) -> None:
        """These bytes will be read: they are fetched meanwhile, before anything is read ahead and
        after what somebody waits for. Returns at once.

        Nothing happens under `zero_copy`, which keeps nothing. Raises `OutOfRange`, and
        `BudgetExceeded` for more than the shadows may take.
        """
        source = self._source
        source.will_need(offset, self.check_extent(offset, length))

    def check_extent(self, offset: int, length: int | None, which: str = "") -> int:
        """The length that is meant; raises `OutOfRange`."""
        size = self._source.info.size_bytes
        length = size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > size:
            raise OutOfRange(
                f"segment {self._name!r} has {size} bytes; {length} at {offset} were asked for"
                + which
            )
        return length

    def check_ranges(self, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The same, as a list; raises `OutOfRange`, or `UsageError` for what is no range."""
        given = []
        for number, item in enumerate(ranges):
            try:
                offset, length = map(index, item)
            except (TypeError, ValueError):
                raise UsageError(
                    f"segment {self._name!r}: read_many takes pairs (offset, length), not {item!r} "
                    f"(at {number} in the list)"
                ) from None
            self.check_extent(offset, length, f" (at {number} in the list)")
            given.append((offset, length))
        return given

    @contextmanager
    def snapshot(self) -> Iterator[memoryview]:
        """The whole region at one version, unchanged until the block is left."""
        source = self._source
        if isinstance(source, MappedRegion):
            snapshot: RegionSnapshot = source.reader.snapshot()
            with snapshot as view:
                yield view
            return
        yield self.read()

    def array(self) -> Any:
        """The whole region as a read-only numpy array of its dtype and shape (needs numpy)."""
        return self.as_array(self.read())

    def as_array(self, view: memoryview) -> Any:
        """These bytes, the whole region's, as an array of its dtype and shape."""
        import numpy

        info = self.info
        array = numpy.frombuffer(view, dtype=numpy.dtype(info.dtype or "u1"))
        return array.reshape(info.shape) if info.shape else array
