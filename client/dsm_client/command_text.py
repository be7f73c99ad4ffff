"""How the `dsm` command writes: sizes, rates and times for people, tables, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.text import Text

from dsm.model import Kind, PathEstimate, SegmentInfo
from dsm_client.command import printable
from dsm_client.session import Described


def console(*, stderr: bool = False) -> Console:
    """Colours on a terminal only (and not where NO_COLOR is set); lines are never broken."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


# ── numbers ──


def size(count: float) -> str:
    """Bytes, as `64.0 MiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"
    return f"{count / 1024:.3g} TiB"


def rate(bits_per_s: float) -> str:
    """Bits a second, as `480 Mbit/s`."""
    for factor, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits_per_s >= factor:
            value = bits_per_s / factor
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{bits_per_s:.0f} bit/s"


def duration(seconds: float) -> str:
    """A length of time, as `0.44 ms`, `1.2 s`."""
    if seconds < 1:
        value = seconds * 1e3
        return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def count(number: int, noun: str) -> str:
    """`1 block`, `1,204 blocks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def local_time(ns: int) -> str:
    """Wall clock of this host, to the microsecond."""
    when = datetime.fromtimestamp(ns // 10**9).astimezone()
    return f"{when:%Y-%m-%d %H:%M:%S}.{ns % 10**9 // 1000:06d}"


def utc_time(ns: int) -> str:
    """ISO 8601 in UTC, to the nanosecond."""
    when = datetime.fromtimestamp(ns // 10**9, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09d}Z"


# ── lines ──


def write_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as what is in them; the last one is not padded."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    out = console()
    for number, row in enumerate((header, *rows)):
        padded = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        line = "  ".join(padded).rstrip()
        out.print(Text(line, style="bold" if number == 0 else ""))


def write_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """`key  value` lines; what follows on in a value is indented under it."""
    width = max(len(key) for key, _ in pairs)
    out = console()
    room = max(40, out.width - width - 2) if out.is_terminal else sys.maxsize
    for key, value in pairs:
        lines = [part for line in value.split("\n") for part in _wrapped(line, room)]
        for number, line in enumerate(lines):
            label = ("" if number else key).ljust(width)
            out.print(Text.assemble((label, "bold"), f"  {line}"))


def _wrapped(line: str, room: int) -> list[str]:
    return wrap(line, room, subsequent_indent="  ") or [""]


def write_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def write_json_line(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


# ── values ──


def segment_json(described: Described) -> dict[str, Any]:
    """What a segment is and where it is, with the names that the library uses."""
    info, position = described.info, described.position
    value: dict[str, Any] = {
        "name": info.name,
        "kind": info.kind.value,
        "epoch": f"{info.epoch:016x}",
        "created": utc_time(info.created_ns),
    }
    if info.kind is Kind.RING:
        value |= {
            "capacity_bytes": info.capacity_bytes,
            "slots": info.slots,
            "header_bytes": info.header_bytes,
            "block_deadline_ms": info.block_deadline_ms,
            "tail": position.tail,
            "head": position.head,
            "held_bytes": described.held_bytes,
        }
    else:
        value |= {
            "size_bytes": info.size_bytes,
            "page_bytes": info.page_bytes,
            "buffers": info.buffers,
            "version": position.version,
        }
    value |= {"dtype": info.dtype, "shape": list(info.shape), "metadata": dict(info.metadata)}
    return value


def path_json(path: PathEstimate) -> dict[str, Any]:
    """The path; what is not known is null."""
    return {
        "rate_bps": round(path.rate_bps) or None,
        "rtt_s": path.rtt_s or None,
        "bdp_bytes": path.bdp_bytes or None,
        "window_bytes": path.window_bytes or None,
        "phase": path.phase,
    }


def array_of(info: SegmentInfo) -> str:
    """`<f4 512×512`, or nothing where no dtype was given."""
    return " ".join(filter(None, (printable(info.dtype), "×".join(map(str, info.shape)))))
