"""Events for one subscriber of one segment, merged so that being slow costs it news, not us memory.

    published   │ │││ │││││ │           │
    taken       ▼   ▼     ▼             ▼       the first after quiet at once,
                0   1     2 ms                  later ones an interval after the one before

Whatever a subscriber has not been told is held as one pending event: a ring's as the contiguous
`since..head` (blocks are only ever appended), a region's as the union of changed extents, of which
at the most `extents_max` are kept (`dsm.core.extents.merge` covers more with fewer). So the state
is constant, and nothing that changed is ever left out of `changed`.

A subscriber is slow when it takes its event long after it was ready. Each such time the interval
doubles (it would only queue), each prompt one halves it back: the multiplicative rules of TCP's
retransmission timer, for the same reason.
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
        raise NotImplementedError

    def published(
        self,
        position: Position,
        changed: tuple[Extent, ...],
        now: float,
        *,
        published_ns: int = 0,
    ) -> None:
        """The segment has come to `position`; `changed` is what changed since the last call."""
        raise NotImplementedError

    def vanished(self, now: float) -> None:
        """The segment was deleted or recreated: the next event says so, and is the last."""
        raise NotImplementedError

    def ready_at(self, now: float) -> float | None:
        """When the next event may go out (never before `now`); None while there is nothing."""
        raise NotImplementedError

    def take(self, now: float) -> Event | None:
        """The event that is due at `now`; None when there is none, or not yet."""
        raise NotImplementedError
