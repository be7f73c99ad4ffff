"""The options of `dsm-netem`, and what they mean for a profile and its hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import units
from .config import ConfigError
from .namespaces import HostConfig
from .profiles import Profile, profile

RAISED_BYTES = (4096, 131072, 64 << 20)
REORDER_S = 0.005

ProfileName = Annotated[str, typer.Argument(metavar="PROFILE", help="see `dsm-netem profiles`")]
Backend = Annotated[str, typer.Option(help="auto, tun, tc or relay")]
Rate = Annotated[str | None, typer.Option(help="such as 500M, or unlimited")]
Rtt = Annotated[str | None, typer.Option(help="least round trip, such as 80ms")]
Loss = Annotated[str | None, typer.Option(help="each way, such as 0.1% or 0.001")]
Burst = Annotated[float | None, typer.Option(help="mean length of a burst of losses, packets")]
Jitter = Annotated[str | None, typer.Option(help="mean over a round trip, such as 2ms")]
Queue = Annotated[str | None, typer.Option(help="of the bottleneck, such as 1MB or 20ms")]
Reorder = Annotated[str | None, typer.Option(help="probability; those are 5 ms late")]
Corrupt = Annotated[str | None, typer.Option(help="bit flips that TCP notices, probability")]
Silent = Annotated[str | None, typer.Option(help="bit flips that TCP does not notice")]
TraceThere = Annotated[Path | None, typer.Option(help="Mahimahi delivery trace, from a to b")]
TraceBack = Annotated[Path | None, typer.Option(help="Mahimahi delivery trace, from b to a")]
Congestion = Annotated[str | None, typer.Option(help="reno, cubic, bbr: of both hosts")]
Sockets = Annotated[str, typer.Option(help="limits of TCP buffers: stock, raised or machine")]
Seed = Annotated[int, typer.Option(help="of everything that is drawn")]


def chosen_profile(name: str, options: Mapping[str, Any]) -> Profile:
    """The profile with the options that were given."""
    readers: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "rate": ("rate_bps", units.rate_bps),
        "rtt": ("rtt_s", units.seconds),
        "loss": ("loss", units.probability),
        "burst": ("loss_burst_packets", float),
        "jitter": ("jitter_s", units.seconds),
        "reorder": ("reorder", units.probability),
        "corrupt": ("corrupt", units.probability),
        "corrupt_silent": ("corrupt_silent", units.probability),
        "trace_there": ("trace_there", lambda path: str(path.resolve())),
        "trace_back": ("trace_back", lambda path: str(path.resolve())),
    }
    given = {
        field: read(options[option])
        for option, (field, read) in readers.items()
        if options.get(option) is not None
    }
    if (queue := options.get("queue")) is not None:
        if queue.strip().endswith("s"):
            given["queue_s"] = units.seconds(queue)
        else:
            given["queue_bytes"] = units.size_bytes(queue)
    if "reorder" in given:
        given["reorder_s"] = REORDER_S
    chosen = profile(name, **given)
    chosen.path()  # so that a bad value is known before anything is started
    return chosen


def host_config(congestion: str | None, sockets: str) -> HostConfig:
    """Raises `ConfigError`."""
    limits: dict[str, dict[str, Any]] = {
        "stock": {},
        "raised": {"wmem_bytes": RAISED_BYTES, "rmem_bytes": RAISED_BYTES},
        "machine": {"wmem_bytes": None, "rmem_bytes": None},
    }
    if sockets not in limits:
        raise ConfigError(f"--sockets {sockets!r}: must be stock, raised or machine")
    return HostConfig(congestion=congestion, **limits[sockets])
