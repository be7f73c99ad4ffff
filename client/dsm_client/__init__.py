"""The client: open segments of a node by name, anywhere, and read them as local memory.

    with connect("dsm://host:7400") as session:
        ring = session.open("capture/eth0")
        for block in ring.follow(start=-100):
            ...

`dsm_client.aio` has the same names, awaited.
"""

from __future__ import annotations

from typing import Any

import dsm.wire  # noqa: F401  loads gRPC the way we want it, before anything else does
from dsm.errors import DsmError, Overrun
from dsm.model import Access, Gap, Kind, PathEstimate, SegmentInfo
from dsm.segment import Block
from dsm_client.loop import background
from dsm_client.mapped import MappedRing
from dsm_client.region import Region
from dsm_client.remote import RemoteRing
from dsm_client.ring import Ring
from dsm_client.session import Described, Options, SessionCore, split_url

__all__ = [
    "Access",
    "Block",
    "Described",
    "DsmError",
    "Gap",
    "Kind",
    "Options",
    "Overrun",
    "Region",
    "Ring",
    "SegmentInfo",
    "Session",
    "connect",
    "open",
]


def connect(url: str, **options: Any) -> Session:
    """Connect to the node at `url` (`dsm://host:port`).

    On loopback it is plaintext; beyond, TLS, and the node's certificate must verify by gRPC's root
    CAs. `ca=FILE` (PEM) verifies by the CAs in that file, `tls=True` by gRPC's, both on loopback
    too; `insecure=True` is plaintext everywhere.

    Options (`Options`): `map_local=False` never maps, even on the node's own host; `ca`, `tls`,
    `insecure`; `lanes`, `retry_s`, `cache` (directory of the shadows), `budget_bytes` (for all of
    them), `compress`.

    Raises `NodeUnavailable` after `retry_s` (at once where TLS is refused), `ProtocolMismatch`,
    `UsageError`.
    """
    return Session.connected(url, Options(**options))


def open(
    url: str,
    access: str | Access = "auto",
    header_bytes: int | None = None,
    at: int | None = None,
    **options: Any,
) -> Any:
    """Open the segment that `url` names (`dsm://host:port/segment`): a `Ring` or a `Region`.

    It has a session of its own, which is closed with it. Connecting, opening and the first bytes
    take one round trip less than by `connect` and `Session.open`, whose arguments these are.
    """
    node, name = split_url(url)
    return opened(node, name, Options(**options), access, header_bytes, at)


def opened(
    url: str,
    name: str,
    options: Options,
    access: str | Access,
    header_bytes: int | None,
    at: int | None = None,
) -> Any:
    """A handle with a session of its own."""
    core, method = SessionCore(url, options), Access.parse(access)
    source = background().run(core.open_with(name, method, header_bytes, at))
    handle = _handle(core, name, method, header_bytes, source)
    handle.owns_session = True
    return handle


def _handle(
    core: SessionCore, name: str, method: Access, header_bytes: int | None, source: Any
) -> Ring | Region:
    kind = Ring if isinstance(source, MappedRing | RemoteRing) else Region
    return kind(core, name, method, header_bytes, source)


class Session:
    """Dealings with one node, from any thread. A context manager; closing it closes its handles."""

    def __init__(self, core: SessionCore) -> None:
        self._core = core

    @classmethod
    def connected(cls, url: str, options: Options) -> Session:
        core = SessionCore(url, options)
        background().run(core.open())
        return cls(core)

    def open(
        self,
        name: str,
        access: str | Access = "auto",
        header_bytes: int | None = None,
        at: int | None = None,
    ) -> Any:
        """Open a segment: a `Ring` or a `Region`, whichever it is.

        `access`: `zero_copy`, `copy_once`, `hybrid`, `prefetch` or `auto`, which chooses.
        `header_bytes`: how much of a block `hybrid` fetches at once; not less than the segment's.
        `at`: where the first read will be, a byte of a region or a block (negative: from the
        head). That much of it as TCP's first window takes (12 kB) comes with the answer; unless
        told, a region's beginning, a ring's newest block.

        Raises `SegmentNotFound`, `InvalidName`, `NodeUnavailable`.
        """
        method = Access.parse(access)
        source = background().run(self._core.source(name, method, header_bytes, at))
        return _handle(self._core, name, method, header_bytes, source)

    def list(self, prefix: str = "") -> list[Described]:
        """The node's segments whose names begin with `prefix`, sorted by name."""
        return background().run(self._core.list(prefix))

    def describe(self, name: str) -> Described:
        """What a segment is and where it is."""
        return background().run(self._core.describe(name))

    def create(self, info: SegmentInfo) -> Described:
        """Create a segment at the node, as `info` says (its epoch and time are the node's).

        A producer there opens it for writing by name. Raises `SegmentExists`, `NoSpace`,
        `UsageError`.
        """
        return background().run(self._core.create(info))

    def delete(self, name: str) -> None:
        """Delete a segment at the node."""
        background().run(self._core.delete(name))

    def ping(self) -> float:
        """Seconds of one round trip."""
        return background().run(self._core.ping())

    def path(self) -> PathEstimate:
        """What is known of the path: rate, round-trip time, window."""
        return self._core.path()

    def stats(self) -> dict[str, int]:
        """What crossed the wire so far: requests, frames, bytes, round trips waited for."""
        return self._core.counts()

    @property
    def address(self) -> str:
        return self._core.address

    @property
    def is_local(self) -> bool:
        """The node is on this host: segments are mapped."""
        return self._core.is_local

    def close(self) -> None:
        """Close connections and handles. Views that were handed out stay valid."""
        background().run(self._core.close())

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "local" if self.is_local else "remote"
        return f"<Session {self._core.address}, {where}>"
