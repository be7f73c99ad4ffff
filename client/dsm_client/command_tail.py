"""`dsm tail`: the newest blocks of a ring, and those that come."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dsm.errors import UsageError, WrongKind
from dsm.model import Gap, Kind, OnLag
from dsm_client import Ring
from dsm_client import command_text as text
from dsm_client.command_blocks import Copied, followed, held, say
from dsm_client.command_reach import Reach

PREVIEW_BYTES = 32
"""Of blocks without a header, the first bytes are shown."""

SEQ_WIDTH = 10
LENGTH_WIDTH = 8


@dataclass(frozen=True, slots=True)
class Form:
    """How blocks are written: text, JSON lines or raw payloads."""

    json: bool = False
    raw: bool = False


def tail(
    reach: Reach, name: str, access: str, form: Form, *, last: int, follow: bool, on_lag: OnLag
) -> None:
    if form.raw and form.json:
        raise UsageError("--raw writes payloads, -o json describes blocks: choose one")
    with reach.session() as session:
        info = session.describe(name).info
        if info.kind is not Kind.RING:
            raise WrongKind(name, "it is a region, which has no blocks; see 'dsm pull'")
        if access == "auto":
            access = "prefetch" if form.raw else "hybrid"  # it is known here what will be touched
        shown = info.header_bytes or PREVIEW_BYTES
        header_bytes = None if form.raw else shown
        with session.open(name, access=access, header_bytes=header_bytes) as ring:
            put, on_gap = _writer(form, ring)
            for block in _blocks(ring, last, form.raw, follow, on_lag, on_gap):
                put(block)
                if follow:
                    sys.stdout.flush()


def _blocks(
    ring: Ring, last: int, whole: bool, follow: bool, on_lag: OnLag, on_gap: Callable[[Gap], None]
) -> Iterator[Copied]:
    head, tail = ring.head, ring.tail
    start = max(tail, head - last)
    if follow:
        return followed(ring, start, whole=whole, on_lag=on_lag, on_gap=on_gap)
    return held(ring, start, head, whole=whole, on_lag=on_lag, on_gap=on_gap)


def _writer(form: Form, ring: Ring) -> tuple[Callable[[Copied], Any], Callable[[Gap], None]]:
    """What writes a block, and what tells of a gap."""
    if form.raw:
        return (lambda block: sys.stdout.buffer.write(block.payload)), say
    if form.json:
        return _put_json, _put_json_gap
    is_preview = not ring.info.header_bytes
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    if width:
        what = "FIRST BYTES" if is_preview else "HEADER"
        heading = f"{'SEQ':>{SEQ_WIDTH}}  {'TIME':<26}  {'BYTES':>{LENGTH_WIDTH}}  {what}"
        text.console().print(heading, style="bold")
    return (lambda block: sys.stdout.write(_line(block, width, is_preview))), say


def _line(block: Copied, width: int, is_preview: bool) -> str:
    """One block; what is shown of it is cut where the terminal ends (`width` 0: never)."""
    start = (
        f"{block.seq:>{SEQ_WIDTH}}  {text.local_time(block.timestamp_ns)}  "
        f"{block.length:>{LENGTH_WIDTH}}  "
    )
    shown = _readable(block.header) if is_preview else block.header.hex()
    if is_preview and block.length > len(block.header):
        shown += "…"
    room = max(16, width - len(start))
    if width and len(shown) > room:
        shown = shown[: (room - 1) // 2 * 2] + "…"
    return f"{start}{shown}\n"


def _readable(data: bytes) -> str:
    """Text, quoted, where it is ASCII; else hexadecimal."""
    words = data.rstrip(b"\r\n\t")
    is_text = words.isascii() and words.decode("ascii", "replace").isprintable()
    return ascii(data.decode("ascii")) if is_text else data.hex()


def _put_json(block: Copied) -> None:
    text.write_json_line(
        {
            "seq": block.seq,
            "timestamp_ns": block.timestamp_ns,
            "time": text.utc_time(block.timestamp_ns),
            "bytes": block.length,
            "header": block.header.hex(),
        }
    )


def _put_json_gap(gap: Gap) -> None:
    text.write_json_line({"gap": {"first": gap.first, "last": gap.last}})
