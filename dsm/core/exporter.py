"""Which answer goes out next on one Pull stream: the node's side of one lane.

    requested(request) ─▶ runnable, by priority ──▶ next_serve() ─▶ Serve: read this, send one frame
                            ▲            │                             │
                    moved() │            ▼ nothing there yet           ▼
                          parked ◀─────────────────────────── served(id) / ended(id)

A stream answers one frame at a time, so that a demand read that arrives while bulk is under way
waits for one frame at the most. Within a priority requests take turns. A read beyond the head of a
ring is parked until `moved` says that its segment has grown.

Driving it:

    status = exporter.requested(request)      # a refusal is answered at once
    while (serve := exporter.next_serve()):   # then read what it says from the segment file, send
        exporter.served(serve.request.id)     # it, and tell: or `parked`, or `ended`

Invariants: at the most `requests_max` unanswered; an id is runnable, parked or forgotten.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dsm.core.reads import Read, Request, Urgency


@dataclass(frozen=True, slots=True)
class Serve:
    """Send the next frame of this request's answer."""

    request: Request
    was_parked: bool


@dataclass(slots=True)
class _Entry:
    request: Request
    was_parked: bool = False


class TooManyRequests(Exception):
    """The stream has as many unanswered requests as was agreed."""


class DuplicateRequest(Exception):
    """The id belongs to a request that is still unanswered."""


class Exporter:
    """The unanswered requests of one Pull stream."""

    def __init__(self, requests_max: int) -> None:
        self.requests_max = requests_max
        self._entries: dict[int, _Entry] = {}
        self._runnable: dict[Urgency, deque[int]] = {urgency: deque() for urgency in Urgency}
        self._parked: dict[str, dict[int, None]] = {}

    def requested(self, request: Request) -> None:
        """Take on a request. Raises `TooManyRequests` or `DuplicateRequest`."""
        if request.id in self._entries:
            raise DuplicateRequest(request.id)
        if len(self._entries) >= self.requests_max:
            raise TooManyRequests(self.requests_max)
        self._entries[request.id] = _Entry(request)
        self._runnable[request.urgency].append(request.id)

    def next_serve(self) -> Serve | None:
        """The request whose turn it is; it stays its turn's last until told otherwise."""
        for queue in self._runnable.values():
            while queue:
                id = queue.popleft()
                entry = self._entries.get(id)
                if entry is not None:
                    return Serve(entry.request, entry.was_parked)
        return None

    def served(self, id: int) -> None:
        """One frame went out, and the answer goes on."""
        entry = self._entries.get(id)
        if entry is not None:
            entry.was_parked = False
            self._runnable[entry.request.urgency].append(id)

    def parked(self, id: int) -> None:
        """There is nothing to send yet."""
        entry = self._entries.get(id)
        if entry is not None:
            entry.was_parked = True
            self._parked.setdefault(entry.request.segment, {})[id] = None

    def moved(self, segment: str) -> bool:
        """The segment has grown (or is gone): its parked reads run again. False if it has none."""
        ids = self._parked.pop(segment, {})
        for id in ids:
            if (entry := self._entries.get(id)) is not None:
                self._runnable[entry.request.urgency].append(id)
        return bool(ids)

    def ended(self, id: int) -> Read | None:
        """Answered, failed or cancelled: forget it. Returns what it read, None if unknown."""
        entry = self._entries.pop(id, None)
        if entry is None:
            return None
        waiting = self._parked.get(entry.request.segment)
        if waiting is not None:
            waiting.pop(id, None)
            if not waiting:
                del self._parked[entry.request.segment]
        return entry.request.read

    @property
    def parked_segments(self) -> frozenset[str]:
        return frozenset(self._parked)

    def __len__(self) -> int:
        return len(self._entries)
