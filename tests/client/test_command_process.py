"""The `dsm` command as a process: signals, pipes that close early, terminals, exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dsm_netem.relay import Relay

from dsm.segment import create_region, create_ring
from tests.client.test_command import Served, serve, shadows_of

LINES = 5000
WEIGHTS = os.urandom(4 << 20)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("segments")
    with create_ring(root, "log/lines", capacity_bytes=1 << 20, slots=8192) as ring:
        ring.append_many([b"line %d\n" % number for number in range(LINES)])
    with (
        create_region(root, "model/weights", size_bytes=len(WEIGHTS)) as region,
        region.write() as view,
    ):
        view[:] = WEIGHTS
    served = serve(root)
    yield served
    served.process.terminate()
    served.process.wait(10)


def dsm(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dsm_client.command", *arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, **options)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit code and what it wrote to stderr."""
    _, err = process.communicate(timeout=15)
    return process.returncode, err.decode()


# ── signals ──


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("how", [[], ["--no-map"]])
def test_following_ends_at_once_and_quietly(
    node: Served, number: signal.Signals, code: int, how: list[str]
) -> None:
    with dsm("tail", "-f", "-n", "1", f"{node.url}/log/lines", *how) as process:
        assert process.stdout is not None
        assert b"line 4999" in process.stdout.readline()
        process.send_signal(number)
        started = time.monotonic()
        assert ended(process) == (code, "")
        assert time.monotonic() - started < 5


def test_an_interrupted_pull_leaves_no_file_and_goes_on_where_it_was(
    node: Served, tmp_path: Path
) -> None:
    host, port = node.url.split(":")
    arguments = ["model/weights", str(tmp_path / "w"), "--no-map", "-o", "json"]
    with Relay(host, int(port), rate_bps=16e6, rtt_s=0.01) as relay:
        url = f"{relay.address}/{arguments.pop(0)}"
        with dsm("pull", url, *arguments) as process:
            _until(lambda: _fetched(relay) > len(WEIGHTS) // 4)
            process.send_signal(signal.SIGINT)
            code, err = ended(process)
        assert (code, err) == (130, "dsm: stopped; the same command goes on from here\n")
        assert list(tmp_path.iterdir()) == []
        relay.set_rate(None)
        with dsm("pull", url, *arguments) as process:
            out, _ = process.communicate(timeout=15)
        assert (tmp_path / "w").read_bytes() == WEIGHTS
        assert json.loads(out)["wire_bytes"] < len(WEIGHTS) * 0.9
        assert not shadows_of(relay.address)


def _fetched(relay: Relay) -> int:
    found: int = relay.statistics()["backward"]["bytes_out"]
    return found


def _until(condition: Any) -> None:
    end_at = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_at
        time.sleep(0.05)


def test_following_lives_through_a_restart_of_the_node(tmp_path: Path) -> None:
    with create_ring(tmp_path, "ticks", capacity_bytes=1 << 16) as ring:
        ring.append(b"one")
        first = serve(tmp_path)
        url = f"{first.url}/ticks"
        with dsm("tail", "-f", "--no-map", "-o", "json", url) as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["seq"] == 0
            first.process.kill()
            first.process.wait(5)
            ring.append(b"two")
            second = serve(tmp_path, first.url)
            try:
                assert json.loads(process.stdout.readline())["seq"] == 1
                ring.append(b"three")
                assert json.loads(process.stdout.readline())["seq"] == 2
            finally:
                process.terminate()
                second.process.terminate()
                second.process.wait(10)


# ── pipes and terminals ──


@pytest.mark.parametrize(
    "words", [["tail", "-n", "5000"], ["tail", "--raw", "-n", "5000"], ["pull", "--payloads"]]
)
def test_a_pipe_that_closes_early_is_no_news(node: Served, words: list[str]) -> None:
    file = ["-"] if words[0] == "pull" else []
    with dsm(*words, f"{node.url}/log/lines", *file) as process:
        assert process.stdout is not None
        assert process.stdout.read(5)
        process.stdout.close()
        assert process.stderr is not None
        assert b"Traceback" not in (err := process.stderr.read())
        assert b"ipe" not in err
        assert process.wait(15) in (0, 1)


def test_colours_and_headings_are_for_terminals(node: Served) -> None:
    on_terminal = _on_terminal("tail", "-n", "1", f"{node.url}/log/lines")
    assert re.search(r"\x1b\[1m +SEQ  TIME +BYTES  FIRST BYTES", on_terminal)
    with dsm("tail", "-n", "1", f"{node.url}/log/lines") as process:
        out, _ = process.communicate(timeout=15)
    assert len(out.splitlines()) == 1
    assert b"\x1b" not in out
    assert "\x1b[" not in _on_terminal("ls", node.url, NO_COLOR="1", TERM="dumb")


def test_pull_shows_how_far_it_is(node: Served, tmp_path: Path) -> None:
    host, port = node.url.split(":")
    with Relay(host, int(port), rate_bps=40e6) as relay:
        url = f"{relay.address}/model/weights"
        out = _on_terminal("pull", "--no-map", url, str(tmp_path))
    assert "/4.0 MiB" in out
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out)
    assert re.search(r"\d Mbit/s 00:0\d", plain)
    assert "weights: version 1, 4 MiB in " in out


def _on_terminal(*arguments: str, **environment: str) -> str:
    """What it writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environment = {"TERM": "xterm", "COLUMNS": "80", **environment}
    with dsm(*arguments, stdout=theirs, stderr=theirs, env=os.environ | environment) as process:
        os.close(theirs)
        written = b""
        try:
            while data := os.read(ours, 65536):
                written += data
        except OSError:  # a terminal ends like this
            pass
        process.wait(15)
    os.close(ours)
    return written.decode()
