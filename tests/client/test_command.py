"""The `dsm` command against a real node: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from dsm_client import connect
from dsm_client.block_file import BlockFile
from dsm_client.cache import default_root
from dsm_client.command import printable, run
from dsm_client.command_app import app
from dsm_client.command_blocks import followed, held
from typer.testing import CliRunner

from dsm.errors import CorruptSegment, Overrun
from dsm.model import Gap
from dsm.segment import RingWriter, create_region, create_ring

WEIGHTS = os.urandom(1 << 20)
HEADER, PAYLOAD = bytes(range(14)), os.urandom(1400)
BLOCKS = 200


class Served(NamedTuple):
    url: str
    root: Path
    process: subprocess.Popen[str]


def serve(root: Path, listen: str = "127.0.0.1:0") -> Served:
    process = subprocess.Popen(
        [sys.executable, "-m", "dsm_server.daemon", "--listen", listen, "--root", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    return Served(process.stdout.readline().split()[-1], root, process)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("segments")
    with create_ring(root, "capture/eth0", capacity_bytes=1 << 20, header_bytes=14) as ring:
        for _ in range(BLOCKS):
            ring.append(HEADER, PAYLOAD)
    with create_ring(
        root, "log/lines", capacity_bytes=1 << 16, metadata={"host": "\x1b[31mred\nline"}
    ) as ring:
        for number in range(20):
            ring.append(f"line {number}\n".encode())
    create_ring(root, "empty", capacity_bytes=1 << 16, block_deadline_ms=20).close()
    with (
        create_region(root, "model/weights", dtype="<f4", shape=(512, 512)) as region,
        region.write() as view,
    ):
        view[:] = WEIGHTS
    served = serve(root)
    yield served
    served.process.terminate()
    served.process.wait(10)


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that succeeds writes to stdout."""
    code = run(arguments)
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


# ── ls, stat ──


def test_ls_has_a_line_for_each_segment(node: Served, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ran(capsys, "ls", node.url).splitlines()
    assert [line.split()[0] for line in lines] == [
        "NAME",
        "capture/eth0",
        "empty",
        "log/lines",
        "model/weights",
    ]
    assert "200 blocks, 277 KiB" in lines[1]
    assert lines[2].endswith("empty")
    assert lines[4].endswith("version 1, <f4 512×512")


@pytest.mark.parametrize("how", [["{}/log"], ["{}", "log"], ["dsm://{}", "log/l"]])
def test_ls_takes_a_prefix(
    node: Served, how: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(ran(capsys, "ls", *(a.format(node.url) for a in how), "-o", "json"))
    assert [segment["name"] for segment in found] == ["log/lines"]


def test_stat_takes_the_segment_in_the_url_or_after_it(
    node: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ran(capsys, "stat", f"{node.url}/capture/eth0", "-o", "json")
    assert one == ran(capsys, "stat", f"dsm://{node.url}", "capture/eth0", "-o", "json")
    value = json.loads(one)
    assert (value["tail"], value["head"], value["header_bytes"]) == (0, BLOCKS, 14)
    assert value["local"] is True


def test_stat_writes_no_control_character_that_a_producer_chose(
    node: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ran(capsys, "stat", f"{node.url}/log/lines")
    assert "\x1b" not in out
    assert "host = [31mred line" in out


# ── ping, explain ──


def test_ping_measures_round_trips_and_really_moves_bytes(
    node: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    value = json.loads(ran(capsys, "ping", node.url, "-c", "4", "-o", "json"))
    rtt = value["rtt_s"]
    assert len(rtt["samples"]) == 4
    assert 0 < rtt["min"] <= rtt["median"] <= rtt["max"] < 1
    assert value["moved"]["segment"] == "model/weights"
    assert value["moved"]["bytes"] >= len(WEIGHTS)
    assert value["rate_bps"] > 1e6


@pytest.mark.parametrize("arguments", [["--move", "0"], ["empty"]])
def test_ping_says_when_the_rate_is_unknown(
    node: Served, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "rate  unknown: " in ran(capsys, "ping", node.url, "-c", "1", *arguments)


def test_explain_tells_mapped_from_remote(node: Served, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{node.url}/capture/eth0"
    assert "mapped" in ran(capsys, "explain", url)
    value = json.loads(ran(capsys, "explain", url, "--no-map", "--access", "hybrid", "-o", "json"))
    assert value["mapped"] is False
    assert value["explain"][0] == "capture/eth0: hybrid (asked for)"
    assert value["probe"]["round_trips"] >= 1
    assert 0 < value["probe"]["wire_bytes"] < BLOCKS * len(PAYLOAD)
    assert value["path"]["rtt_s"] > 0


# ── pull ──


@pytest.mark.parametrize("how", [[], ["--no-map"], ["--no-map", "--access", "prefetch"]])
def test_pull_writes_a_region_as_its_bytes(
    node: Served, how: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = json.loads(
        ran(capsys, "pull", f"{node.url}/model/weights", str(tmp_path), "-o", "json", *how)
    )
    assert (tmp_path / "weights").read_bytes() == WEIGHTS
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert value["version"] == 1
    assert (value["wire_bytes"] >= len(WEIGHTS)) is bool(how)
    assert not shadows_of(node.url)


def shadows_of(url: str) -> list[Path]:
    """What pulls left of shadows of this node."""
    root = default_root()
    return list(root.with_name(f"{root.name}-pull").glob(f"{url.replace(':', '%3A')}*"))


def test_what_an_old_pull_left_is_removed(node: Served, tmp_path: Path) -> None:
    root = default_root()
    old = root.with_name(f"{root.name}-pull") / f"{quote(node.url, safe='')}%2Fold"
    old.mkdir(parents=True)
    os.utime(old, (1, 1))
    assert run(["pull", f"{node.url}/log/lines", str(tmp_path)]) == 0
    assert not old.exists()


@pytest.mark.parametrize("how", [[], ["--no-map"]])
def test_pull_writes_a_ring_as_a_file_of_blocks(
    node: Served, how: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(capsys, "pull", f"{node.url}/capture/eth0", str(tmp_path / "b"), "-n", "7", *how)
    blocks = BlockFile(tmp_path / "b")
    records = list(blocks)
    assert [record.seq for record in records] == list(range(BLOCKS - 7, BLOCKS))
    assert {record.data for record in records} == {HEADER + PAYLOAD}
    assert all(record.timestamp_ns for record in records)
    assert (blocks.about["name"], blocks.about["header_bytes"]) == ("capture/eth0", 14)
    assert blocks.gaps == []


def test_a_damaged_file_of_blocks_is_not_believed(
    node: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b"
    ran(capsys, "pull", f"{node.url}/log/lines", str(path))
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:40], whole.replace(b"line 7", b"line 8"), b"not one"):
        path.write_bytes(damaged)
        with pytest.raises(CorruptSegment):
            list(BlockFile(path))


def test_pull_writes_payloads_to_stdout(
    node: Served, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run(["pull", f"{node.url}/log/lines", "-", "--payloads", "-n", "2"]) == 0
    assert capfdbinary.readouterr().out == b"line 18\nline 19\n"


def test_pull_writes_into_a_pipe_and_does_not_replace_it(node: Served, tmp_path: Path) -> None:
    fifo, got = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    assert run(["pull", f"{node.url}/model/weights", str(fifo)]) == 0
    reader.join(5)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert got == [WEIGHTS]


def test_a_pull_that_fails_leaves_the_old_file(node: Served, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("old")
    assert run(["pull", f"{node.url}/model/weights", str(old), "-n", "1"]) == 2
    assert run(["pull", f"{node.url}/model/nothing", str(old)]) == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


# ── tail ──


@pytest.mark.parametrize("how", [[], ["--no-map"]])
def test_tail_writes_one_object_a_line(
    node: Served, how: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = ran(capsys, "tail", f"{node.url}/capture/eth0", "-n", "3", "-o", "json", *how)
    blocks = [json.loads(line) for line in out.splitlines()]
    assert [block["seq"] for block in blocks] == [BLOCKS - 3, BLOCKS - 2, BLOCKS - 1]
    for block in blocks:
        assert block["header"] == HEADER.hex()
        assert block["bytes"] == len(HEADER + PAYLOAD)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", block["time"])


def test_tail_shows_headers_or_the_first_bytes(
    node: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = ran(capsys, "tail", f"{node.url}/capture/eth0", "-n", "1").splitlines()
    assert line.endswith(f"  1414  {HEADER.hex()}")
    (line,) = ran(capsys, "tail", f"{node.url}/log/lines", "-n", "1").splitlines()
    assert line.endswith(r"  'line 19\n'")


def test_tail_raw_writes_payloads(node: Served, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["tail", "--no-map", "--raw", "-n", "2", f"{node.url}/capture/eth0"]) == 0
    assert capfdbinary.readouterr().out == PAYLOAD * 2


@pytest.mark.parametrize("map_local", [True, False])
def test_what_was_overwritten_is_told_exactly(node: Served, cache: Path, map_local: bool) -> None:
    name = f"lapped/{map_local}"
    gaps: list[Gap] = []
    options: Any = {"whole": True, "on_lag": "skip", "on_gap": gaps.append}
    with (
        create_ring(node.root, name, capacity_bytes=4096, slots=8) as writer,
        connect(node.url, map_local=map_local, cache=str(cache)) as session,
    ):
        append(writer, 0, 8)
        with session.open(name) as ring:
            blocks = held(ring, 0, 8, **options)
            seen = [next(blocks)]
            append(writer, 8, 5)  # blocks 1 to 4 go
            with session.open(name) as again:  # as a second reader, who comes later
                live = followed(again, 2, **options)
                seen.append(next(live))
        assert [block.seq for block in seen] == [0, 5]
        assert gaps == [Gap(2, 4)]
        with session.open(name) as ring, pytest.raises(Overrun):
            list(held(ring, 0, 8, **options | {"on_lag": "raise"}))
        gaps.clear()
        with session.open(name) as ring:
            found = held(ring, 0, 13, **options)
            assert [block.data for block in found] == [b"%d" % n for n in range(5, 13)]
        assert gaps == [Gap(0, 4)]


def append(writer: RingWriter, first: int, count: int) -> None:
    for number in range(first, first + count):
        writer.append(b"%d" % number)


# ── what can go wrong ──

USAGE = [
    ["nonsense"],
    ["ls", "--nonsense"],
    ["stat", "{}"],
    ["stat", "{}/empty", "empty"],
    ["stat", "{}/../etc"],
    ["stat", "http://{}/empty"],
    ["tail", "{}/empty", "-n", "many"],
    ["tail", "{}/empty", "--raw", "-o", "json"],
    ["tail", "{}/empty", "--access", "magic"],
    ["ping", "{}", "--move", "lots"],
    ["ls", "{}", "--insecure", "--tls"],
]
FAILURES = [
    ["stat", "{}/nothing"],
    ["tail", "{}/model/weights"],
    ["pull", "{}/empty", "/nonexistent/directory/file"],
    ["ls", "127.0.0.1:1", "--wait", "0"],
]


@pytest.mark.parametrize(
    ("code", "arguments"), [*((2, usage) for usage in USAGE), *((1, fail) for fail in FAILURES)]
)
def test_an_error_is_one_line(
    node: Served, code: int, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([argument.format(node.url) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"dsm: .+\n", err), err


def test_what_a_node_says_stays_on_one_line() -> None:
    assert printable("a\x1b[2J\nb\x9b c") == "a [2J b c"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith((missing, "dsm_client.command_"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert run(["--version"]) == 1
    assert re.fullmatch(rf"dsm: .*{missing}.*'dsm-wan\[cli\]'\n", capsys.readouterr().err)


@pytest.mark.parametrize("word", ["", "ls", "stat", "ping", "pull", "tail", "explain"])
def test_help_fits_into_80_columns_and_has_examples(word: str) -> None:
    result = CliRunner().invoke(app, [*word.split(), "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    assert f"    dsm {word}" in result.output
