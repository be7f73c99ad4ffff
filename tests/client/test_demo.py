"""`make demo` in small: it shows what it measured, on every backend, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

DEMO = str(Path(__file__).parents[2] / "client/examples/demo.py")
MARK = "DSM_DEMO_TEST"
END_S = 5.0
UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


def processes(mark: str) -> list[str]:
    """Command lines of all that inherited the mark, whoever their parent is by now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture
def demo(request: pytest.FixtureRequest) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts it; afterwards no process and no directory of its is left."""
    mark = f"{os.getpid()}-{abs(hash(request.node.nodeid))}"
    started = []

    def start(*words: str, prefix: Iterable[str] = ()) -> subprocess.Popen[str]:
        command = [*prefix, sys.executable, DEMO, "--quick", *words]
        environment = {**os.environ, MARK: mark}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + END_S
    while (left := processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)  # what was killed takes a moment to be gone
    assert not left
    for process in started:
        assert not list(Path("/dev/shm").glob(f"dsm-demo-{process.pid}-*"))


@pytest.mark.parametrize("backend", ["tun", "relay"])
def test_it_shows_every_method_on_the_best_backend_that_is_permitted(
    demo: Any, wan: Callable[..., Any], tmp_path: Path, backend: str
) -> None:
    wan("metro").close()
    prefix = UNPRIVILEGED if backend == "relay" else ()
    process = demo("--json", str(tmp_path / "figures"), prefix=prefix)
    shown = process.communicate(timeout=100)[0]
    assert process.returncode == 0
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in shown
    figures = json.loads((tmp_path / "figures").read_text())
    methods = {row["method"] for row in figures["rows"]}
    assert methods == {"zero_copy", "copy_once", "hybrid", "prefetch", "auto"}
    headers = {
        row["method"]: row["wire_bytes"] for row in figures["rows"] if "headers" in row["what"]
    }
    assert headers["hybrid"] < headers["copy_once"]
    assert figures["live"]["p50_ms"] >= 40
    assert (figures["local"]["mapped"], figures["local"]["wire_bytes"]) == (True, 0)
    link = figures["link"]
    assert link["backend"] == backend
    assert re.search(rf" {backend}: .*(packets between|a TCP relay)", shown)
    assert ("without" in shown) == ("not tun:" in shown) == (backend == "relay")


@pytest.mark.parametrize("backend", ["tun", "relay"])
@pytest.mark.parametrize(
    ("after", "wait_s", "number"),
    [
        ("ring", 0.0, signal.SIGINT),
        ("region", 0.15, signal.SIGTERM),  # the WAN is being started
        ("link", 0.0, signal.SIGTERM),
        ("link", 1.5, signal.SIGINT),  # it measures
    ],
)
def test_a_signal_at_any_moment_leaves_nothing(
    demo: Any, wan: Callable[..., Any], backend: str, after: str, wait_s: float, number: int
) -> None:
    if backend == "tun":
        wan("metro").close()
    process = demo("--backend", backend)
    assert any(line.startswith(after) for line in process.stdout)
    time.sleep(wait_s)
    process.send_signal(number)
    process.send_signal(number)  # a second one does not stop the cleaning up
    assert process.wait(timeout=20) == 128 + number


def test_an_unknown_backend_is_one_line_and_exit_code_2(capfd: Any, demo: Any) -> None:
    process = demo("--backend", "ns3")
    process.communicate(timeout=20)
    assert process.returncode == 2
    assert capfd.readouterr().err.strip() == (
        "demo: no backend 'ns3'; there are: auto, tun, tc, relay"
    )
