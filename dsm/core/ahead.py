"""What was fetched before anybody waited for it, and what became of it; for dashboards.

    arrived ──▶ unread ──read──▶ used
                  │ ├── deserted: the reader went elsewhere, and may come back
                  ╰─┴── dropped: no room, overwritten, another version ──▶ wasted

Units are those of the handle's index space: sequence numbers or pages.
"""

from __future__ import annotations

from dsm.core.extents import ExtentSet


class Ahead:
    """One per handle."""

    def __init__(self) -> None:
        self.late = 0
        """Reads that waited for what had been requested ahead of them."""
        self.arrived_units = 0
        self._dropped_units = 0
        self._unread = ExtentSet()
        self._deserted = ExtentSet()

    def arrived(self, start: int, stop: int) -> None:
        self.arrived_units += self._unread.add(start, stop)

    def read(self, start: int, stop: int) -> None:
        self._unread.discard(start, stop)
        self._deserted.discard(start, stop)

    def deserted(self, start: int, stop: int) -> None:
        for extent in self._unread.intersection(start, stop):
            self._deserted.add(*extent)

    def dropped(self, start: int, stop: int) -> None:
        self._dropped_units += self._unread.discard(start, stop)
        self._deserted.discard(start, stop)

    @property
    def unread_units(self) -> int:
        """Here, and not read yet."""
        return self._unread.total

    @property
    def wasted_units(self) -> int:
        """Dropped unread, or deserted; a reader that comes back takes off what it reads."""
        return self._dropped_units + self._deserted.total
