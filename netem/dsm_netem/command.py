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
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

try:
    import typer
    from rich.console import Console
except ImportError as error:  # the library does without them
    needed = f"dsm-netem needs the cli extra ({error.name}): pip install 'dsm-wan[cli]'"
    raise SystemExit(needed) from None

from . import command_options as options
from .calibrate import calibrate
from .child import ChildError
from .command_options import (
    Backend,
    Burst,
    Congestion,
    Corrupt,
    Jitter,
    Loss,
    ProfileName,
    Queue,
    Rate,
    Reorder,
    Rtt,
    Seed,
    Silent,
    Sockets,
    TraceBack,
    TraceThere,
)
from .command_views import (
    console,
    plain_calibration,
    print_calibration,
    profile_table,
    report,
    watching,
)
from .config import ConfigError
from .host import Host
from .namespaces import HostConfig, NotPermitted
from .profiles import Profile, profiles
from .relay import RelayError
from .trace import TraceError
from .wan import Wan

FAILED = 2
LISTEN_TIMEOUT_S = 10.0
LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__.splitlines()[0])


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
    chosen = options.chosen_profile(name, locals())
    host = options.host_config(congestion, sockets)
    with _running(chosen, backend, host, seed) as wan, ExitStack() as stack:
        places = _places(wan)
        near, far = wan.hosts.values()
        if on_b:
            stack.enter_context(far.running(_filled(shlex.split(on_b), places)))
        if port:
            _wait_for(far, port)
            places["{b}"], places["{port}"] = map(str, wan.address(far.name, port))
        if watch:
            stack.enter_context(watching(wan))
        code = _run_on(near, _filled(command, places))
        statistics = wan.statistics()
    report(statistics, json_file)
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
    chosen = options.chosen_profile(name, locals())
    host = options.host_config(congestion, sockets)
    with _running(chosen, backend, host, seed) as wan:
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
    Console().print(profile_table(profiles()))


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
    tries: Annotated[int, typer.Option(min=1, help="while a run is not valid")] = 2,
    output: Annotated[str, typer.Option("--output", "-o", help="table or json")] = "table",
) -> None:
    """Measure a path with ping and iperf3, against what was asked for."""
    given = locals()
    names = list(profiles()) if name == "all" else [name]
    done = []
    for chosen in [options.chosen_profile(each, given) for each in names]:
        for _ in range(tries):
            measured = calibrate(chosen, backend=backend, measure_s=seconds)
            if output == "table":
                print_calibration(measured)
            if measured.verdict.valid:
                break
        done.append(measured)
    if output == "json":
        print(json.dumps([plain_calibration(each) for each in done], indent=2))
    raise typer.Exit(0 if all(each.verdict.valid for each in done) else 1)


def main() -> None:
    """The entry point: every error that is not ours is one line."""
    try:
        app()
    except (ConfigError, TraceError, NotPermitted, ChildError, RelayError) as error:
        console.print(f"dsm-netem: {error}", style="red", highlight=False, soft_wrap=True)
        sys.exit(FAILED)


# -- how it is done --


@contextmanager
def _running(chosen: Profile, backend: str, host: HostConfig, seed: int) -> Iterator[Wan]:
    """A WAN, and what it is, said."""
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


if __name__ == "__main__":
    main()
