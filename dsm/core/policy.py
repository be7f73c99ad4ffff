"""Which access method `auto` uses, by cost, and why. (Skeleton.)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dsm.core.planner import Pattern
from dsm.model import Access, PathEstimate


@dataclass(frozen=True, slots=True)
class Choice:
    """A method, and why it."""

    method: Access
    header_bytes: int = 0
    """How much of a block comes at once under `hybrid`."""
    reason: str = ""
    costs: Mapping[Access, float] = field(default_factory=dict)
    """Seconds per access that each method is expected to cost."""


class AccessPolicy:
    """Chooses for one handle under `access="auto"`."""

    def __init__(self, *, header_bytes: int = 0) -> None:
        """`header_bytes`: the segment's own; what is learned is never below it."""

    def accessed(
        self,
        *,
        header_only: bool,
        bytes_touched: int,
        block_bytes: int,
        sequential: bool,
        now: float,
    ) -> None:
        """A block (or a read of a region) is done with: how much of it was touched."""
        raise NotImplementedError

    def choose(self, path: PathEstimate, now: float, *, pattern: Pattern | None = None) -> Choice:
        raise NotImplementedError

    def explain(self, path: PathEstimate, now: float) -> str:
        """The choice and the figures behind it, in words, several lines."""
        raise NotImplementedError
