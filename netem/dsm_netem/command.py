"""`dsm-netem`: any two programs on an emulated WAN.

    dsm-netem run transatlantic --on-b 'iperf3 -s' -- iperf3 -c {b}

Errors are one line and exit code 2; `run` otherwise exits as the command does.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
except ImportError as error:  # the library does without them
    needed = f"dsm-netem needs the cli extra ({error.name}): pip install 'dsm-wan[cli]'"
    raise SystemExit(needed) from None

from . import units
from .calibrate import Calibration, calibrate
from .child import ChildError
from .config import ConfigError
from .host import Host
from .namespaces import HostConfig, NotPermitted
from .profiles import Profile, profile, profiles
from .relay import RelayError
from .trace import TraceError
from .wan import Wan

FAILED = 2
LISTEN_TIMEOUT_S = 10.0
LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
REFRESH_S = 0.5
RAISED_BYTES = (4096, 131072, 64 << 20)
console = Console(stderr=True)
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__.splitlines()[0])

ProfileName = Annotated[str, typer.Argument(metavar="PROFILE", help="see `dsm-netem profiles`")]
Backend = Annotated[str, typer.Option(help="auto, tun, tc or relay")]
Rate = Annotated[str | None, typer.Option(help="such as 500M, or unlimited")]
Rtt = Annotated[str | None, typer.Option(help="least round trip, such as 80ms")]
Loss = Annotated[str | None, typer.Option(help="each way, such as 0.1% or 0.001")]
Burst = Annotated[float | None, typer.Option(help="mean length of a burst of losses, packets")]
Jitter = Annotated[str | None, typer.Option(help="mean over a round trip, such as 2ms")]
Queue = Annotated[str | None, typer.Option(help="of the bottleneck, such as 1MB")]
Reorder = Annotated[str | None, typer.Option(help="probability; those are 5 ms late")]
Corrupt = Annotated[str | None, typer.Option(help="bit flips that TCP notices, probability")]
Silent = Annotated[str | None, typer.Option(help="bit flips that TCP does not notice")]
TraceThere = Annotated[Path | None, typer.Option(help="Mahimahi delivery trace, from a to b")]
TraceBack = Annotated[Path | None, typer.Option(help="Mahimahi delivery trace, from b to a")]
Congestion = Annotated[str | None, typer.Option(help="reno, cubic, bbr: of both hosts")]
Sockets = Annotated[str, typer.Option(help="limits of TCP buffers: stock, raised or machine")]
Seed = Annotated[int, typer.Option(help="of everything that is drawn")]
REORDER_S = 0.005


@app.command()
def run(
    name: ProfileName,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD", help="runs on host a")],
    on_b: Annotated[str | None, typer.Option(help="a program for host b meanwhile")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port on b: waited for; {port}")] = None,
    backend: Backend = "auto",
    rate: Rate = None,
    rtt: Rtt = None,
    loss: Loss = None,
    burst: Burst = None,
    jitter: Jitter = None,
    queue: Queue = None,
    reorder: Reorder = None,
    corrupt: Corrupt = None,
    corrupt_silent: Silent = None,
    trace_there: TraceThere = None,
    trace_back: TraceBack = None,
    congestion: Congestion = None,
    sockets: Sockets = "stock",
    seed: Seed = 0,
    watch: Annotated[bool, typer.Option("--watch", help="live statistics")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="statistics at the end, to this file")
    ] = None,
) -> None:
    """Run CMD on host a. {a} and {b} are the hosts' addresses, {on_b} starts a program on b."""
    chosen = _profile(name, locals())
    with _wan(chosen, backend, congestion, sockets, seed) as wan, ExitStack() as stack:
        places = _places(wan)
        near, far = wan.hosts.values()
        if on_b:
            stack.enter_context(far.running(_filled(shlex.split(on_b), places)))
        if port:
            _wait_for(far, port)
            places["{b}"], places["{port}"] = map(str, wan.address(far.name, port))
        if watch:
            stack.enter_context(_watching(wan))
        code = _run_on(near, _filled(command, places))
        statistics = wan.statistics()
    _report(wan, statistics, json_file)
    raise typer.Exit(code)


@app.command()
def shell(
    name: ProfileName,
    backend: Backend = "auto",
    rate: Rate = None,
    rtt: Rtt = None,
    loss: Loss = None,
    jitter: Jitter = None,
    queue: Queue = None,
    congestion: Congestion = None,
    sockets: Sockets = "stock",
    seed: Seed = 0,
) -> None:
    """A shell on host a, with $A, $B, and $ON_B to start programs on b."""
    chosen = _profile(name, locals())
    with _wan(chosen, backend, congestion, sockets, seed) as wan:
        places = _places(wan)
        near = next(iter(wan.hosts.values()))
        variables = {"A": places["{a}"], "B": places["{b}"], "ON_B": places["{on_b}"]}
        console.print(f"you are on a ({variables['A']}); b is $B ({variables['B']}); $ON_B PROGRAM")
        shell_path = os.environ.get("SHELL", "/bin/sh")
        code = near.popen([shell_path], env={**os.environ, **variables}).wait()
    raise typer.Exit(code)


@app.command("profiles")
def list_profiles(
    output: Annotated[str, typer.Option("--output", "-o", help="table or json")] = "table",
) -> None:
    """The paths that are known by name, and where their figures come from."""
    if output == "json":
        facts = {name: {**p.facts(), "source": p.source} for name, p in profiles().items()}
        print(json.dumps(facts, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("profile", "rate", "RTT", "loss", "jitter", "what it is", "source"):
        table.add_column(heading, no_wrap=heading in ("profile", "rate", "RTT"))
    for name, found in profiles().items():
        rate_text = f"{found.rate_bps / 1e6:g} Mbit/s" if found.rate_bps else "trace"
        jitter_text = f"{found.jitter_s * 1e3:g} ms"
        rtt_text = f"{found.rtt_s * 1e3:g} ms"
        loss_text = f"{found.loss * 100:g} %"
        table.add_row(
            name, rate_text, rtt_text, loss_text, jitter_text, found.summary, found.source
        )
    Console().print(table)


@app.command("calibrate")
def calibrate_command(
    name: Annotated[str, typer.Argument(metavar="PROFILE", help="or `all`")],
    backend: Backend = "auto",
    rate: Rate = None,
    rtt: Rtt = None,
    loss: Loss = None,
    jitter: Jitter = None,
    queue: Queue = None,
    seconds: Annotated[float, typer.Option(help="of the rate measurement")] = 8.0,
    output: Annotated[str, typer.Option("--output", "-o", help="table or json")] = "table",
) -> None:
    """Measure a path with ping and iperf3, against what was asked for."""
    options = locals()
    chosen = [_profile(each, options) for each in (profiles() if name == "all" else [name])]
    done = []
    for each in chosen:
        done.append(calibrate(each, backend=backend, measure_s=seconds))
        if output == "table":
            _print_calibration(done[-1])
    if output == "json":
        print(json.dumps([_plain(each) for each in done], indent=2))
    raise typer.Exit(0 if all(each.good and each.verdict.valid for each in done) else 1)


def main() -> None:
    """The entry point: every error that is not ours is one line."""
    try:
        app()
    except (ConfigError, TraceError, NotPermitted, ChildError, RelayError) as error:
        console.print(f"dsm-netem: {error}", style="red", highlight=False, soft_wrap=True)
        sys.exit(FAILED)


# -- what the options mean --


def _profile(name: str, options: dict[str, Any]) -> Profile:
    """The profile with the options that were given."""
    readers: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "rate": ("rate_bps", units.rate_bps),
        "rtt": ("rtt_s", units.seconds),
        "loss": ("loss", units.probability),
        "burst": ("loss_burst_packets", float),
        "jitter": ("jitter_s", units.seconds),
        "queue": ("queue_bytes", units.size_bytes),
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
    if "reorder" in given:
        given["reorder_s"] = REORDER_S
    chosen = profile(name, **given)
    chosen.path()  # so that a bad value is known before anything is started
    return chosen


@contextmanager
def _wan(
    chosen: Profile, backend: str, congestion: str | None, sockets: str, seed: int
) -> Iterator[Wan]:
    limits = {
        "stock": {},
        "raised": {"wmem_bytes": RAISED_BYTES, "rmem_bytes": RAISED_BYTES},
        "machine": {"wmem_bytes": None, "rmem_bytes": None},
    }
    if sockets not in limits:
        raise ConfigError(f"--sockets {sockets!r}: must be stock, raised or machine")
    host = HostConfig(congestion=congestion, **limits[sockets])  # type: ignore[arg-type]
    with Wan(chosen, backend=backend, host=host, seed=seed) as wan:
        for reason in wan.passed_over:
            console.print(f"not {reason}", style="dim", highlight=False)
        without = f", without: {'; '.join(wan.cannot)}" if wan.cannot else ""
        console.print(f"{chosen.name} on {wan.backend}{without}", style="dim", highlight=False)
        yield wan


def _places(wan: Wan) -> dict[str, str]:
    """What stands for the hosts in a command line."""
    near, far = wan.hosts.values()
    return {
        "{a}": near.ipv4,
        "{b}": far.ipv4,
        "{on_a}": shlex.join(near.command([])),
        "{on_b}": shlex.join(far.command([])),
    }


def _filled(command: list[str], places: dict[str, str]) -> list[str]:
    filled = []
    for word in command:
        for place, value in places.items():
            word = word.replace(place, value)
        filled.append(word)
    if shutil.which(filled[0]) is None:
        raise ConfigError(f"no such command: {filled[0]}")
    return filled


def _wait_for(host: Host, port: int) -> None:
    """Until somebody listens there."""

    def listens() -> bool:
        """Asked of the kernel: a connection made only to find out would disturb the program."""
        tables = ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6")
        rows = [line.split() for table in tables for line in Path(table).read_text().splitlines()]
        return any(row[3] == LISTENING and int(row[1][-4:], 16) == port for row in rows[1:])

    deadline = time.monotonic() + LISTEN_TIMEOUT_S
    while not host.call(listens):
        if time.monotonic() > deadline:
            raise ConfigError(f"nobody listens on port {port} of {host.name} ({host.ipv4})")
        time.sleep(0.05)


def _run_on(host: Host, command: list[str]) -> int:
    process = host.popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # it got the same signal, and decides


# -- what is shown --


@contextmanager
def _watching(wan: Wan) -> Iterator[None]:
    """Live statistics while the command runs."""
    done = threading.Event()

    def show() -> None:
        before: dict[str, int] = {}
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not done.wait(REFRESH_S):
                live.update(_table(wan.statistics(), before), refresh=True)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _table(statistics: dict[str, Any], before: dict[str, int]) -> Table:
    table = Table(box=None)
    for heading in ("link", "Mbit/s", "queue kB", "lost", "dropped", "late p99 us"):
        table.add_column(heading, justify="right")
    late = str(statistics.get("lateness", {}).get("p99_us", "?"))
    for name, link in statistics.get("links", {}).items():
        bits = (link["out_bytes"] - before.get(name, link["out_bytes"])) * 8
        before[name] = link["out_bytes"]
        table.add_row(
            name,
            f"{bits / REFRESH_S / 1e6:.1f}",
            f"{link['queued_bytes'] / 1e3:.0f}",
            str(link["lost_packets"]),
            str(link["dropped_packets"]),
            late,
        )
    return table


def _report(wan: Wan, statistics: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(statistics, indent=2) + "\n")
    if statistics["valid"]:
        console.print("the run is valid", style="dim")
    else:
        reasons = "; ".join(statistics["invalid_because"])
        console.print(f"the run is INVALID, repeat it: {reasons}", style="yellow")


def _print_calibration(done: Calibration) -> None:
    table = Table(title=f"{done.profile} on {done.backend}: {done.verdict}", box=None)
    for heading in ("figure", "asked", "measured", "deviation", "allowed", ""):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for figure in done.figures:
        table.add_row(
            f"{figure.name} ({figure.unit})",
            f"{figure.asked:.4g}",
            f"{figure.measured:.4g}",
            f"{figure.deviation:+.3g}",
            "" if figure.allowed is None else f"{figure.allowed:.3g}",
            "" if figure.allowed is None else "good" if figure.good else "OFF",
        )
    Console().print(table)


def _plain(done: Calibration) -> dict[str, Any]:
    figures = [
        {
            "name": figure.name,
            "unit": figure.unit,
            "asked": figure.asked,
            "measured": figure.measured,
            "allowed": figure.allowed,
            "good": figure.good,
        }
        for figure in done.figures
    ]
    return {
        "profile": done.profile,
        "backend": done.backend,
        "valid": done.verdict.valid,
        "invalid_because": list(done.verdict.reasons),
        "figures": figures,
    }


if __name__ == "__main__":
    main()
