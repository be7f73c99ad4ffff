"""`python -m tests.bench`: segment files, the emulator, then peers over emulated WANs.

    python -m tests.bench                     # what `make bench` does
    python -m tests.bench table               # the table of targets, in an hour and a quarter
    python -m tests.bench table --part bulk --profile metro,geo
    python -m tests.bench report              # the table and pictures of what was measured so far
    python -m tests.bench wan --profile geo --congestion cubic --workload bulk --peer dsm,flight

Results go to `bench-results/`, those of `table` to `bench-results/table/`, where they gather until
`--fresh`. The links need root, as `dsm-netem` does; what is not installed or not permitted is
skipped, and said.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dsm_netem.config import ConfigError
from dsm_netem.namespaces import NotPermitted

from . import report, results, segment_bench, targets
from .data import Dataset, Sizes
from .experiment import SOCKETS, Interrupted, Plan, Setting, measure, progress
from .peers import PEERS
from .plans import DEFAULTS, FULL, QUICK, TABLE, TABLE_PARTS, Choice
from .workloads import BY_NAME

PARTS = ("segment", "calibrate", "wan", "table", "report")
PARTS_DEFAULT = ("segment", "calibrate", "wan")
RESULTS = Path("bench-results")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "what", nargs="*", help=f"of {', '.join(PARTS)}; unless said, {', '.join(PARTS_DEFAULT)}"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a look, in less than two minutes")
    size.add_argument("--full", action="store_true", help="all of it, for hours")
    parser.add_argument("--part", default="", help=f"of the table: {', '.join(TABLE_PARTS)}")
    for name, known in (("workload", BY_NAME), ("peer", PEERS)):
        parser.add_argument(f"--{name}", help=f"some of {', '.join(known)}; or all", default="")
    parser.add_argument("--profile", default="", help="links, as in `dsm-netem profiles`")
    parser.add_argument("--congestion", default="", help="of both hosts: bbr, cubic, reno")
    parser.add_argument("--sockets", choices=SOCKETS, help="limits of their buffers (stock)")
    parser.add_argument("--rounds", type=int, help="repetitions (5)")
    parser.add_argument("--limit", type=float, help="seconds that a run may take")
    parser.add_argument("--budget", type=float, help="seconds for all links together")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--out", type=Path, help=f"folder ({RESULTS}, for the table .../table)")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what there is, is kept
    try:
        _run(arguments, _named(",".join(arguments.what), dict.fromkeys(PARTS)) or PARTS_DEFAULT)
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


def _run(arguments: argparse.Namespace, parts: tuple[str, ...]) -> None:
    if "segment" in parts and not arguments.quick:
        print("── segment files ──", flush=True)
        segment_bench.main()
    if "calibrate" in parts:
        print("── the emulator ──", flush=True)
        _calibrate("metro" if arguments.quick else "transatlantic")
    if "wan" in parts:
        print("── peers over emulated links ──", flush=True)
        folder = arguments.out or RESULTS
        _report(_measure(_links(arguments), arguments, folder), folder)
    if "table" in parts or "report" in parts:
        folder = arguments.out or RESULTS / "table"
        if "table" in parts:
            print("── the table of targets ──", flush=True)
            _measure(_table(arguments), arguments, folder)
        _report(results.kept(folder), folder)


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


# ── links ──


def _links(arguments: argparse.Namespace) -> tuple[Choice, ...]:
    """What is measured without the table: a default choice, or that on the links named."""
    choices = QUICK if arguments.quick else FULL if arguments.full else DEFAULTS
    if not (arguments.profile or arguments.congestion):
        return choices
    total_s = sum(choice.budget_s for choice in choices)
    links = [
        Setting(profile, congestion)
        for profile in _words(arguments.profile) or ("transatlantic",)
        for congestion in _words(arguments.congestion) or ("bbr",)
    ]
    return tuple(replace(choices[0], setting=link, budget_s=total_s / len(links)) for link in links)


def _table(arguments: argparse.Namespace) -> tuple[Choice, ...]:
    """Of the table's links those that are named."""
    parts = _named(arguments.part, dict.fromkeys(TABLE_PARTS)) or TABLE_PARTS
    profiles, congestion = _words(arguments.profile), _words(arguments.congestion)
    workloads = _named(arguments.workload, BY_NAME)
    choices = tuple(
        choice
        for choice in TABLE
        if choice.part in parts
        and (not workloads or set(choice.workloads) & set(workloads))
        and (not profiles or choice.setting.profile in profiles)
        and (not congestion or choice.setting.congestion in congestion)
    )
    if not choices:
        raise UsageError("the table has nothing of that part on that link")
    return choices


def _measure(
    choices: tuple[Choice, ...], arguments: argparse.Namespace, folder: Path
) -> list[results.Plain]:
    """Every link's results are kept as soon as it was measured."""
    if arguments.fresh:
        shutil.rmtree(folder / results.FOLDER, ignore_errors=True)
    total_s = sum(choice.budget_s for choice in choices)
    scale = arguments.budget / total_s if arguments.budget else 1.0
    progress(f"{len(choices)} links, {total_s * scale / 60:.0f} minutes at most")
    sizes = Sizes(64 << 20, 2000) if arguments.quick else Sizes()
    scratch = Path(tempfile.mkdtemp(prefix="dsm-bench-", dir="/dev/shm"))
    scratch.chmod(0o755)  # a server may run as somebody else
    found: list[results.Plain] = []
    try:
        data = Dataset.create(scratch / "data", sizes)
        for number, choice in enumerate(choices):
            setting, plan = _plan(choice, arguments, scale)
            progress(f"{setting.name}: {len(plan.workloads)} workloads")
            here = scratch / str(number)
            try:
                outcome = results.plain(measure(setting, plan, data, here))
            except Interrupted as interrupted:
                results.keep(results.plain(interrupted.outcome), folder)
                raise
            finally:
                shutil.rmtree(here, ignore_errors=True)
            results.keep(outcome, folder)
            found.append(outcome)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return found


def _plan(choice: Choice, arguments: argparse.Namespace, scale: float) -> tuple[Setting, Plan]:
    named = _named(arguments.workload, BY_NAME)
    both = tuple(name for name in choice.workloads if name in named)
    workloads = (both if choice.part else named) or choice.workloads
    plan = Plan(
        workloads=replace(choice, workloads=workloads).ordered(),
        peers=_named(arguments.peer, PEERS) or choice.peers,
        rounds=arguments.rounds or choice.rounds,
        limit_s=arguments.limit or choice.limit_s,
        budget_s=choice.budget_s * scale,
        controls=choice.controls,
    )
    sockets = arguments.sockets or choice.setting.sockets
    return replace(choice.setting, sockets=sockets), plan


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _named(text: str, known: Mapping[str, object]) -> tuple[str, ...]:
    words = tuple(known) if text == "all" else _words(text)
    unknown = [word for word in words if word not in known]
    if unknown:
        raise UsageError(f"no {', '.join(unknown)}; there are: {', '.join(known)}")
    return words


def _report(outcomes: list[results.Plain], folder: Path) -> None:
    outcomes = results.joined(outcomes)
    if not outcomes:
        progress(f"nothing was measured yet in {folder}")
        return
    for path in report.write(outcomes, folder):
        progress(f"wrote {path}")
    print(report.markdown(outcomes))
    print(targets.markdown(outcomes))


if __name__ == "__main__":
    sys.exit(main())
