"""How fast and how long one path is, and how many bytes to keep in flight on it. (Skeleton.)"""

from __future__ import annotations

from dsm.model import PathEstimate

WINDOW_BYTES_MIN = 64 << 10
WINDOW_BYTES_MAX = 256 << 20


class PathEstimator:
    """One per client-node path, all lanes together; bytes are wire bytes."""

    def __init__(self, *, window_bytes_max: int = WINDOW_BYTES_MAX) -> None: ...

    def request_sent(
        self, request_id: int, bytes_expected: int, now: float, *, app_limited: bool = False
    ) -> None:
        """`app_limited`: parked, or nothing more to ask for: its samples prove no small path."""
        raise NotImplementedError

    def bytes_arrived(self, request_id: int, wire_bytes: int, now: float) -> None:
        """Some of the answer; may be called many times for a request."""
        raise NotImplementedError

    def request_finished(self, request_id: int, now: float) -> None:
        raise NotImplementedError

    def request_abandoned(self, request_id: int, now: float) -> None:
        raise NotImplementedError

    def rtt_sampled(self, rtt_s: float, now: float) -> None:
        """From pings, and from the first byte of small demand reads."""
        raise NotImplementedError

    @property
    def in_flight_bytes(self) -> int:
        """Expected and not arrived yet, over all requests."""
        raise NotImplementedError

    def window_bytes(self, now: float) -> int:
        """How many bytes to have in flight: ask for more while `in_flight_bytes` is below it."""
        raise NotImplementedError

    def estimate(self, now: float) -> PathEstimate:
        raise NotImplementedError
