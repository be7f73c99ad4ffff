"""`python -m tests.bench`: segment files, the emulator, then all peers over emulated WANs.

    python -m tests.bench --quick
    python -m tests.bench wan --profile geo --congestion cubic --workload bulk --peer dsm,flight

Results go to `bench-results/`. The links need root, as `dsm-netem` does; what is not installed or
not permitted is skipped, and said.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dsm_netem.config import ConfigError
from dsm_netem.namespaces import NotPermitted

from . import report, segment_bench
from .data import Dataset, Sizes
from .experiment import Outcome, Plan, Setting, measure, progress
from .peers import PEERS
from .workloads import ALL, BY_NAME

PARTS = ("segment", "calibrate", "wan")
RESULTS = Path("bench-results")

PEERS_BULK = ("dsm", "dsm-hints", "flight", "flight-8", "http-ranges")
PEERS_MANY = (
    *("dsm", "dsm-hints", "flight", "http-readahead", "http-ranges"),
    *("redis", "redis-pipelined", "nats", "zenoh"),
)
PEERS_QUICK = ("dsm", "dsm-hints", "flight", "http-readahead", "redis-pipelined")
WORKLOADS_SMALL = (
    *("headers", "random-4k-1", "random-64k-16", "tail-100"),
    *("first-cold", "first-warm", "object-cold"),
)
WORKLOADS_QUICK = ("bulk", "headers", "random-4k-1", "tail-100", "first-cold")
PROFILES_FULL = ("metro", "continental", "transatlantic", "transpacific", "leo", "geo")

TRANSATLANTIC = Setting("transatlantic", "bbr")
TRANSATLANTIC_LOSS_BASED = Setting("transatlantic", "cubic")
METRO = Setting("metro", "bbr")


@dataclass(frozen=True)
class Choice:
    """What is measured on a link unless said otherwise, and which part of the time is for it."""

    setting: Setting
    workloads: tuple[str, ...]
    peers: tuple[str, ...]
    share: float
    limit_s: float = 10.0


DEFAULTS = (
    Choice(
        TRANSATLANTIC,
        ("bulk",),
        (*PEERS_BULK, "http-readahead", "redis-pipelined"),
        0.34,
        limit_s=8.0,
    ),
    Choice(TRANSATLANTIC, WORKLOADS_SMALL, PEERS_MANY, 0.3),
    Choice(TRANSATLANTIC_LOSS_BASED, ("bulk",), PEERS_BULK, 0.22, limit_s=12.0),
    Choice(METRO, ("bulk", "headers"), PEERS_BULK, 0.14),
)
QUICK = (Choice(METRO, WORKLOADS_QUICK, PEERS_QUICK, 1.0),)
FULL = tuple(
    Choice(Setting(profile, congestion), tuple(BY_NAME), tuple(PEERS), 1.0, limit_s=60.0)
    for profile in PROFILES_FULL
    for congestion in ("bbr", "cubic")
)

BUDGET_S, BUDGET_QUICK_S, BUDGET_FULL_S = 1080.0, 60.0, 6 * 3600.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}: all, unless some are named")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a look, in less than two minutes")
    size.add_argument("--full", action="store_true", help="all of it, for hours")
    for name, known in (("workload", BY_NAME), ("peer", PEERS)):
        parser.add_argument(f"--{name}", help=f"some of {', '.join(known)}; or all", default="")
    parser.add_argument("--profile", default="", help="links, as in `dsm-netem profiles`")
    parser.add_argument("--congestion", default="", help="of both hosts: bbr, cubic, reno")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions (%(default)s)")
    parser.add_argument("--limit", type=float, help="seconds that a run may take")
    parser.add_argument("--budget", type=float, help="seconds for all links together")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder (%(default)s)")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        parts = _named(",".join(arguments.part), dict.fromkeys(PARTS)) or PARTS
        if "segment" in parts and not arguments.quick:
            print("── segment files ──", flush=True)
            segment_bench.main()
        if "calibrate" in parts:
            print("── the emulator ──", flush=True)
            _calibrate("metro" if arguments.quick else "transatlantic")
        if "wan" in parts:
            print("── peers over emulated links ──", flush=True)
            _wan(arguments)
    except NotPermitted as error:
        print(f"skipped: {error}")
    except (UsageError, ConfigError) as error:
        print(f"python -m tests.bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


class UsageError(ValueError):
    """A name that is not known."""


def _calibrate(profile: str) -> None:
    from dsm_netem.calibrate import calibrate
    from dsm_netem.profiles import profile as named

    calibration = calibrate(named(profile), measure_s=3.0)
    for figure in calibration.figures:
        asked, measured = f"{figure.asked:,.4g}", f"{figure.measured:,.4g}"
        mark = "" if figure.good else "  (off)"
        told = f"asked {asked:>8} measured {measured:>8} {figure.unit}{mark}"
        print(f"{profile}: {figure.name:<24} {told}")
    print(f"{profile}: {calibration.verdict}")


def _wan(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    sizes = Sizes(64 << 20, 2000) if arguments.quick else Sizes()
    folder = Path(tempfile.mkdtemp(prefix="dsm-bench-", dir="/dev/shm"))
    folder.chmod(0o755)  # a server may run as somebody else
    outcomes: list[Outcome] = []
    try:
        data = Dataset.create(folder / "data", sizes)
        for number, (setting, plan) in enumerate(settings):
            progress(f"{setting.profile}, {setting.congestion}: {len(plan.workloads)} workloads")
            outcomes.append(measure(setting, plan, data, folder / str(number)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if outcomes:
            _report(outcomes, arguments.out)


def _settings(arguments: argparse.Namespace) -> list[tuple[Setting, Plan]]:
    choices, budget_s = DEFAULTS, BUDGET_S
    if arguments.quick:
        choices, budget_s = QUICK, BUDGET_QUICK_S
    if arguments.full:
        choices, budget_s = FULL, BUDGET_FULL_S
    if arguments.profile or arguments.congestion:
        links = [
            Setting(profile, congestion)
            for profile in _words(arguments.profile) or ("transatlantic",)
            for congestion in _words(arguments.congestion) or ("bbr",)
        ]
        base = choices[0]
        choices = tuple(replace(base, setting=link, share=1 / len(links)) for link in links)
    return [(choice.setting, _plan(choice, arguments, budget_s)) for choice in choices]


def _plan(choice: Choice, arguments: argparse.Namespace, budget_s: float) -> Plan:
    workloads = _named(arguments.workload, BY_NAME) or choice.workloads
    return Plan(
        workloads=tuple(workload for workload in ALL if workload.name in workloads),
        peers=_named(arguments.peer, PEERS) or choice.peers,
        rounds=min(arguments.rounds, 2) if arguments.quick else arguments.rounds,
        limit_s=arguments.limit or choice.limit_s,
        budget_s=(arguments.budget or budget_s) * choice.share,
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _named(text: str, known: Mapping[str, object]) -> tuple[str, ...]:
    words = tuple(known) if text == "all" else _words(text)
    unknown = [word for word in words if word not in known]
    if unknown:
        raise UsageError(f"no {', '.join(unknown)}; there are: {', '.join(known)}")
    return words


def _report(outcomes: list[Outcome], folder: Path) -> None:
    plain = [json.loads(json.dumps(outcome.plain())) for outcome in outcomes]
    about = {"at": time.strftime("%Y-%m-%d %H:%M"), "kernel": platform.release()}
    for outcome in plain:
        outcome["about"] = about
    for path in report.write(plain, folder):
        progress(f"wrote {path}")
    print(report.markdown(plain))


if __name__ == "__main__":
    sys.exit(main())
