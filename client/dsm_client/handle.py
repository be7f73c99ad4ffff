"""What rings and regions have in common: a name at a node, opened again where need be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsm.core.planner import Hint
from dsm.errors import Closed
from dsm.model import Access, Kind, Position, SegmentInfo
from dsm_client.loop import background
from dsm_client.remote import RemoteRegion, RemoteRing
from dsm_client.stats import HandleStats

if TYPE_CHECKING:
    from dsm_client.session import SessionCore


class Handle:
    """What rings and regions have in common: a name at a node, opened again where need be."""

    kind: Kind

    def __init__(
        self, core: SessionCore, name: str, access: Access, header_bytes: int | None, source: Any
    ) -> None:
        self._core = core
        self._name = name
        self._access = access
        self._header_bytes = header_bytes
        self._opened: Any = source
        self._generation = core.generation
        self._closed = False
        self.owns_session = False
        """Opened by `open(url)`: its session ends with it."""

    @property
    def _source(self) -> Any:
        if self._generation != self._core.generation:
            self._reopen()
        if self._closed:
            raise Closed(f"segment {self._name!r}: this handle is closed; open it again")
        return self._opened

    @property
    def session(self) -> SessionCore:
        return self._core

    def opened(self) -> Any:
        """Where the bytes come from now; raises `Closed`."""
        return self._source

    def _reopen(self) -> None:
        """In the child of a fork: the parent's connections are not ours."""
        self._generation = self._core.generation
        work = self._core.source(self._name, self._access, self._header_bytes)
        self._opened = background().run(work)

    @property
    def name(self) -> str:
        return self._name

    @property
    def info(self) -> SegmentInfo:
        """What the segment is."""
        info: SegmentInfo = self._source.info
        return info

    @property
    def position(self) -> Position:
        """How far it has come, as far as is known here: events keep it up to date."""
        position: Position = self._source.position
        return position

    @property
    def is_mapped(self) -> bool:
        """It is this host's own memory: no copy, no network."""
        mapped: bool = self._source.is_mapped
        return mapped

    @property
    def access(self) -> Access:
        return self._access

    @property
    def method(self) -> str:
        """The access method in force now: under `auto`, the one that it chose last."""
        source = self._source
        if isinstance(source, RemoteRing | RemoteRegion):
            return source.replica.method.value
        return "mapped"

    def hint(self, hint: Hint) -> None:
        """Tell what is known of the reads to come: 'sequential', 'random' or 'normal'."""
        self._source.hint(hint)

    def explain(self) -> str:
        """How it is read and why, in words: method, path, window, hits."""
        text: str = self._source.explain()
        return text

    def stats(self) -> HandleStats:
        """What this handle did so far, and the path as it is now, for a dashboard."""
        stats: HandleStats = self._source.stats()
        return stats

    def close(self) -> None:
        """Let go of it. Views that were handed out stay valid."""
        if not self._closed:
            self._closed = True
            if self._generation == self._core.generation:
                self._opened.close()
            if self.owns_session:
                background().run(self._core.close())

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        return (reopened, (self._core.url, self._core.options, self._name, *self._arguments))

    @property
    def _arguments(self) -> tuple[str, int | None]:
        return self._access.value, self._header_bytes

    def __repr__(self) -> str:
        state = "closed" if self._closed else ("mapped" if self._opened.is_mapped else "remote")
        return f"<{type(self).__name__} {self._name!r} at {self._core.address}, {state}>"


def reopened(url: str, options: Any, name: str, access: str, header_bytes: int | None) -> Any:
    """Unpickles a handle: connects to the node and opens the segment."""
    from dsm_client import opened

    return opened(url, name, options, access, header_bytes)
