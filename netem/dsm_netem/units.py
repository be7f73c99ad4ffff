"""Figures as people write them on a command line: `500M`, `80ms`, `0.1%`, `2M` bytes."""

from __future__ import annotations

import re

from .config import ConfigError

_NUMBER = re.compile(r"\s*([-+]?[0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?)\s*([a-z%/]*)\s*", re.IGNORECASE)
_RATES = {"": 1, "bit": 1, "bit/s": 1, "k": 1e3, "kbit": 1e3, "kbit/s": 1e3, "m": 1e6}
_RATES |= {"mbit": 1e6, "mbit/s": 1e6, "g": 1e9, "gbit": 1e9, "gbit/s": 1e9}
_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_SIZES = {"": 1, "b": 1, "k": 1e3, "kb": 1e3, "kib": 1024, "m": 1e6, "mb": 1e6, "mib": 1 << 20}
_CHANCES = {"": 1.0, "%": 0.01}


def rate_bps(text: str) -> float | None:
    """Bits per second; `unlimited` is `None`. Raises `ConfigError`."""
    if text.lower() in ("unlimited", "none"):
        return None
    return _parse(text, _RATES, "a rate such as 500M, 1gbit or unlimited")


def seconds(text: str) -> float:
    """A unit is needed: nobody agrees on which goes without saying. Raises `ConfigError`."""
    return _parse(text, _TIMES, "a time such as 80ms or 0.5s")


def size_bytes(text: str) -> int:
    """Raises `ConfigError`."""
    return round(_parse(text, _SIZES, "a size such as 64KiB or 2MB"))


def probability(text: str) -> float:
    """Raises `ConfigError`."""
    return _parse(text, _CHANCES, "a probability such as 0.001 or 0.1%")


def _parse(text: str, units: dict[str, float], wanted: str) -> float:
    found = _NUMBER.fullmatch(text)
    if not found or found[2].lower() not in units:
        raise ConfigError(f"{text!r} is not {wanted}")
    return float(found[1]) * units[found[2].lower()]
