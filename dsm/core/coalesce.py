"""Events for one subscriber of one segment, merged so that being slow costs it news, not us memory.

    published   │ │││ │││││ │           │
    taken       ▼   ▼     ▼             ▼       the first after quiet at once,
                0   1     2 ms                  later ones an interval after the one before

Whatever a subscriber has not been told is held as one pending event: a ring's as the contiguous
`since..head` (blocks are only ever appended), a region's as the union of changed extents, of which
at the most `extents_max` are kept (`dsm.core.extents.merge` covers more with fewer). So the state
is constant, and nothing that changed is ever left out of `changed`.

A subscriber is slow when it takes an event more than an interval after it was due. Each such time
the interval doubles, each prompt one halves it: more news would only queue in front of it.
"""

from __future__ import annotations

from dsm.core.extents import merge
from dsm.model import Event, Extent, Kind, Position

INTERVAL_S = 0.001
"""Between two events to one subscriber: 1,000 events/s each is more than any person or loop needs,
and half of the 2 ms within which an event is to arrive on loopback."""

INTERVAL_S_MAX = 0.25
"""A subscriber that is slow is still told four times a second."""

EXTENTS_MAX = 64
"""Of a region's event: about 1 KB on the wire, so that an event fits in one packet."""


class EventCoalescer:
    """What one subscriber of one segment is still to be told, and when.

    After every `published`, and after every `take`, ask `ready_at`: at that time, or later when the
    subscriber is not ready to be sent to, call `take` and send what it returns.
    """

    def __init__(
        self,
        segment: str,
        epoch: int,
        kind: Kind,
        *,
        since: Position,
        interval_s: float = INTERVAL_S,
        interval_s_max: float = INTERVAL_S_MAX,
        extents_max: int = EXTENTS_MAX,
    ) -> None:
        assert 0 <= interval_s <= interval_s_max
        self._segment = segment
        self._epoch = epoch
        self._kind = kind
        self._extents_max = extents_max
        self._interval_s_min = interval_s
        self._interval_s_max = interval_s_max
        self._interval_s = interval_s
        self._next_at = float("-inf")  # no event before this
        self._told = since
        self._position = since
        self._gone = False
        self._pending_since: float | None = None
        self._published_ns = 0
        self._changed: tuple[Extent, ...] = ()

    def published(
        self,
        position: Position,
        changed: tuple[Extent, ...],
        now: float,
        *,
        published_ns: int = 0,
    ) -> None:
        """The segment has come to `position`; `changed` is what changed since the last call.

        A position that is not new is no news. `published_ns` is when the producer published; an
        event carries that of the first publication in it, so that latency measured from it is
        that of the data which waited longest.
        """
        if self._gone:
            return
        news = self._reached(position) > self._reached(self._position)
        self._position = Position(
            head=max(position.head, self._position.head),
            tail=max(position.tail, self._position.tail),
            version=max(position.version, self._position.version),
        )
        if not news:
            return
        if self._kind is Kind.REGION:
            self._changed = merge((*self._changed, *changed), self._extents_max)
        self._pend(now, published_ns)

    def vanished(self, now: float) -> None:
        """The segment was deleted or recreated: the next event says so, and is the last."""
        if self._gone:
            return
        self._gone = True
        self._next_at = now
        self._pend(now, 0)

    def ready_at(self, now: float) -> float | None:
        """When the next event may go out (never before `now`); None while there is nothing."""
        if self._pending_since is None:
            return None
        return max(self._pending_since, self._next_at, now)

    def take(self, now: float) -> Event | None:
        """The event that is due at `now`; None when there is none, or not yet."""
        if self._pending_since is None or self._next_at > now:
            return None
        self._pace(late_s=now - max(self._pending_since, self._next_at))
        self._next_at = now + self._interval_s
        event = self._event()
        self._told = self._position
        self._quiet()
        return event

    def _pace(self, late_s: float) -> None:
        """Multiplicative in both directions: a subscriber that is slow once may just have slept."""
        slow = late_s > self._interval_s
        wanted_s = self._interval_s * (2.0 if slow else 0.5)
        self._interval_s = min(max(wanted_s, self._interval_s_min), self._interval_s_max)

    def _pend(self, now: float, published_ns: int) -> None:
        if self._pending_since is None:
            self._pending_since = now
            self._published_ns = published_ns

    def _quiet(self) -> None:
        self._pending_since = None
        self._published_ns = 0
        self._changed = ()

    def _event(self) -> Event:
        since, reached = self._reached(self._told), self._reached(self._position)
        if self._kind is Kind.RING and since < reached:
            self._changed = (Extent(since, reached),)
        return Event(
            segment=self._segment,
            epoch=self._epoch,
            kind=self._kind,
            since=since,
            position=self._position,
            changed=self._changed,
            published_ns=self._published_ns,
            gone=self._gone,
        )

    def _reached(self, position: Position) -> int:
        return position.head if self._kind is Kind.RING else position.version
