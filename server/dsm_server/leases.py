"""Versions of regions that the node keeps for clients that read them in several requests.

A large region takes many requests, and its producer commits in between. The first request that says
`hold` makes the node keep that version; each further one renews it; when none has come for
`LEASE_S` it is let go. A pinned version costs the node nothing; one that could not be pinned (the
region's other buffers are pinned already) is a private copy, and the copies share one budget.
"""

from __future__ import annotations

import asyncio

from dsm.errors import BudgetExceeded, VersionGone
from dsm.segment import RegionSnapshot
from dsm_server.exports import Exported

LEASE_S = 5.0
"""Longer than any path's round trip with its retries, short against a day's commits."""


class Lease:
    """One version of one region, while it is read."""

    def __init__(self, snapshot: RegionSnapshot, leases: Leases) -> None:
        self.snapshot = snapshot
        self.users = 0
        self.expires_at = 0.0
        self._leases = leases
        self._staged = 0 if snapshot.pinned else snapshot.nbytes

    def release(self) -> None:
        """One answer is done with it; of a lease that is held, the sweep ends it."""
        self.users -= 1
        if not self.users and not self.expires_at:
            self.end()

    def end(self) -> None:
        self.snapshot.close()
        self._leases.unstage(self._staged)
        self._staged = 0


class Leases:
    """All leases of a node."""

    def __init__(self, copies_bytes_max: int) -> None:
        self._copies_bytes_max = copies_bytes_max
        self._staged = 0
        self._held: dict[tuple[int, int], Lease] = {}
        self._loop = asyncio.get_running_loop()
        self._sweeper: asyncio.TimerHandle | None = None

    def take(self, exported: Exported, version: int, *, hold: bool) -> Lease:
        """The version (0: the newest), until `release` or, with `hold`, `LEASE_S` longer.

        Raises `VersionGone` where nobody holds it, `BudgetExceeded` where it would have to be
        copied and the budget for copies is used up.
        """
        region = exported.region
        version = version or region.version
        key = (exported.info.epoch, version)
        lease = self._held.get(key)
        if lease is None:
            lease = Lease(self._snapshot(exported, version), self)
            if hold:
                self._held[(exported.info.epoch, lease.snapshot.version)] = lease
        if hold:
            lease.expires_at = self._loop.time() + LEASE_S
            self._sweep_later()
        lease.users += 1
        return lease

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for lease in self._held.values():
            lease.end()
        self._held.clear()

    def stage(self, length: int) -> None:
        """Take so many bytes of the budget for copies, until `unstage`; or `BudgetExceeded`."""
        if self._staged + length > self._copies_bytes_max:
            raise BudgetExceeded(
                f"copies of regions take {self._staged} bytes, {length} more were asked for; "
                f"{self._copies_bytes_max} is the node's staging budget: try again later"
            )
        self._staged += length

    def unstage(self, length: int) -> None:
        self._staged -= length

    def _snapshot(self, exported: Exported, version: int) -> RegionSnapshot:
        newest = exported.region.version
        if version < newest:
            raise VersionGone(
                exported.info.name, f"version {version} is not held any more; it is at {newest}"
            )
        if version > newest:
            raise VersionGone(
                exported.info.name, f"version {version} does not exist yet; it is at {newest}"
            )
        snapshot = exported.region.snapshot()
        if not snapshot.pinned:
            try:
                self.stage(snapshot.nbytes)
            except BudgetExceeded:
                snapshot.close()
                raise
        return snapshot

    def _sweep_later(self) -> None:
        if self._sweeper is None and self._held:
            self._sweeper = self._loop.call_later(LEASE_S / 2, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._loop.time()
        for key, lease in list(self._held.items()):
            if not lease.users and lease.expires_at <= now:
                del self._held[key]
                lease.end()
        self._sweep_later()
