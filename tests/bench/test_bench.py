"""The harness itself: what it asks for, how it judges, what it makes of results. No link."""

from __future__ import annotations

import dataclasses
import json
import socket
import time

import pytest
from dsm_netem.profiles import profile

from tests.bench import (
    controls,
    driving,
    figures,
    link_states,
    plans,
    report,
    results,
    targets,
)
from tests.bench.client import Task, run
from tests.bench.data import BLOCK_BYTES, HEADER_BYTES, Checksum, Dataset, Sizes
from tests.bench.experiment import Outcome, Setting
from tests.bench.link_states import State
from tests.bench.peers import PEERS, SERVERS, Peer, Reader, Server, node_refused
from tests.bench.peers.interface import missing, paced, stamp_of
from tests.bench.workloads import ALL, BY_NAME, READ_BYTES

SIZES = Sizes(bulk_bytes=2 << 20, blocks=40)
LINK = {"rate_bps": 100e6, "rtt_s": 0.1, "overhead_bytes": 38}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Dataset.create(tmp_path_factory.mktemp("data"), SIZES)


class FileReader(Reader):
    """Reads the dataset itself; `flaw` is what it gets wrong."""

    def __init__(self, data, flaw=""):
        self.data, self.flaw = data, flaw

    def read(self, name, offset, length):
        view = self.data.bytes_of(name)[offset : offset + length]
        if self.flaw == "flips a bit":
            return bytes([view[0] ^ 1]) + view[1:]
        if self.flaw == "fails":
            raise OSError("gone")
        return view

    def headers(self, count):
        for seq in range(count):
            yield self.read("blocks", seq * BLOCK_BYTES, HEADER_BYTES)

    def payloads(self, seqs):
        for seq in seqs:
            yield self.read("blocks", seq * BLOCK_BYTES + HEADER_BYTES, BLOCK_BYTES - HEADER_BYTES)


@pytest.fixture
def task(data, monkeypatch):
    def of(workload, flaw=""):
        kinds = frozenset(each.kind for each in ALL)
        peer = Peer("file", "file", "a file", lambda *_: FileReader(data, flaw), kinds)
        monkeypatch.setitem(PEERS, "file", peer)
        sizes = (SIZES.bulk_bytes, SIZES.blocks)
        return Task("file", workload, "nowhere", 0, str(data.folder), *sizes, 0, 5.0, 1.0)

    return of


@pytest.mark.parametrize(
    "workload", [each for each in ALL if each.kind not in ("tail", "demand")], ids=lambda w: w.name
)
def test_every_workload_is_read_whole_and_checked(task, data, workload):
    result = run(task(workload.name))
    extents = workload.extents(data.sizes, 0)
    assert (result["complete"], result["wrong"], result["error"]) == (True, False, "")
    assert result["bytes"] == sum(length for _, length in extents) > 0
    assert result["seconds"] >= result["first_s"] > 0


@pytest.mark.parametrize("workload", ["bulk", "payloads", "random-4k-16"])
def test_a_flipped_bit_is_noticed(task, workload):
    assert run(task(workload, "flips a bit"))["wrong"]


def test_a_failing_reader_is_a_result_and_not_a_crash(task):
    result = run(task("first-cold", "fails"))
    assert (result["error"], result["bytes"], result["complete"]) == ("OSError: gone", 0, False)


def test_a_run_ends_at_its_limit(task, monkeypatch):
    slow = FileReader.read

    def read(self, name, offset, length):
        time.sleep(0.02)
        return slow(self, name, offset, length)

    monkeypatch.setattr(FileReader, "read", read)
    result = run(dataclasses.replace(task("bulk"), limit_s=0.2))
    assert not result["complete"]
    assert not result["wrong"]
    assert 0 < result["bytes"] < SIZES.bulk_bytes
    assert result["seconds"] < 1


def test_demand_lasts_as_long_as_the_stream_beside_it(task, monkeypatch):
    def sequential(self, name, extents):
        for extent in extents:
            time.sleep(0.005)
            yield self.read(name, *extent)

    def scattered(self, name, extents, depth):
        for extent in extents:
            time.sleep(0.001)
            yield self.read(name, *extent), 0.001

    monkeypatch.setattr(FileReader, "sequential", sequential)
    monkeypatch.setattr(FileReader, "scattered", scattered)
    monkeypatch.setattr(driving, "FILL_S", 0.02)
    result = run(task("demand"))
    assert (result["complete"], result["wrong"], result["error"]) == (True, False, "")
    extents = BY_NAME["demand"].extents(Sizes(), 0)
    assert driving.DEMAND_LEAST <= len(result["times_ms"]) < len(extents)
    assert result["beside_bps"] > 0


def test_a_seek_leaves_the_stream_before_its_end(task, monkeypatch):
    handed = []

    def sequential(self, name, extents):
        for extent in extents:
            handed.append(extent)
            yield self.read(name, *extent)

    monkeypatch.setattr(FileReader, "sequential", sequential)
    monkeypatch.setattr(driving, "SETTLE_S", 0.0)
    assert run(task("seek"))["complete"]
    assert len(handed) == SIZES.bulk_bytes // 4 // READ_BYTES


def test_random_extents_differ_between_rounds_and_not_between_peers():
    workload = BY_NAME["random-4k-16"]
    assert workload.extents(SIZES, 0) == workload.extents(SIZES, 0) != workload.extents(SIZES, 1)
    assert len(set(workload.extents(SIZES, 0))) == min(workload.count, SIZES.bulk_bytes >> 12)


def test_sequential_extents_cover_the_array():
    extents = BY_NAME["bulk"].extents(SIZES, 0)
    assert sum(length for _, length in extents) == SIZES.bulk_bytes
    assert extents[:2] == [(0, READ_BYTES), (READ_BYTES, READ_BYTES)]


def test_bounds_by_arithmetic():
    class Link:
        rate_bps, rtt_s, overhead_bytes = 100e6, 0.1, 38

    goodput_bps = 100e6 * 1448 / 1538
    wire_s = SIZES.bulk_bytes * 8 / goodput_bps
    bound = {workload.name: controls.bound_s(workload, Link, SIZES) for workload in ALL}
    assert bound["bulk"] == pytest.approx(0.1 + wire_s)
    assert bound["bulk-cold"] == pytest.approx(0.2 + wire_s)
    assert bound["outage"] is bound["seek"] is None
    assert bound["first-warm"] == pytest.approx(0.1, rel=0.01)
    assert bound["first-cold"] == pytest.approx(0.2, rel=0.01)
    assert bound["tail-100"] == 0.05
    assert bound["payloads"] > bound["headers"] > 0.1


def test_a_link_has_recovered_when_the_first_fast_window_begins():
    slow = [(at / 100, at * 1000) for at in range(300)]  # 0.8 Mbit/s
    fast = [(3 + at / 100, 300_000 + at * 10_000) for at in range(300)]  # 8 Mbit/s
    samples = [*slow, *fast]
    assert link_states.recovered_s(samples, 2.0, 8e6, 0.1) == pytest.approx(0.9, abs=0.05)
    assert link_states.recovered_s(samples, 1.0, 0.8e6, 0.1) == 0.0
    assert link_states.recovered_s(samples, 2.0, 10e6, 0.1) is None
    assert link_states.recovered_s(samples, 5.5, 8e6, 0.1) is None  # not watched long enough
    assert link_states.recovered_s([], 2.0, 8e6, 0.1) is None


def test_a_state_keeps_the_queue_in_bandwidth_delay_products():
    link = profile("transatlantic")
    whole, quarter = (State(rate=rate).updates(link) for rate in (1.0, 0.25))
    assert quarter["rate_bps"] == whole["rate_bps"] / 4
    assert quarter["queue_bytes"] == pytest.approx(whole["queue_bytes"] / 4)
    assert State(rtt=3.0).updates(link)["delay_s"] == pytest.approx(3 * link.rtt_s / 2)
    outages = [State(outage=lost).updates(link)["outage"] for lost in (True, False)]
    assert outages == ["drop", "none"]


def test_live_blocks_carry_their_number_and_their_time():
    blocks = list(paced(3, 1000.0, 64))
    assert [stamp_of(block)[1] for block in blocks] == [0, 1, 2]
    assert {len(block) for block in blocks} == {64}
    assert stamp_of(blocks[0])[0] < stamp_of(blocks[2])[0]


def test_what_is_missing_is_named():
    assert missing(["json"], ["sh"]) == ""
    assert missing(["no_such_module"], ["no-such-program"]) == (
        "module no_such_module, program no-such-program"
    )
    assert {peer.server for peer in PEERS.values()} <= SERVERS.keys()
    assert all(isinstance(server, Server) for server in SERVERS.values())


def test_checksums_add_up():
    total = Checksum()
    total.add(b"12345")
    total.add(memoryview(b"6789"))
    assert (total.value, total.bytes) == (0xE3069283, 9)


# -- reports --


def a_run(seconds, size=1_000_000, **changes):
    figures = {"first_s": 0.1, "client_cpu_s": 0.01, "server_cpu_s": 0.01, "wire_bytes": size}
    state = {"complete": True, "wrong": False, "error": "", "valid": True, "round": "r/0"}
    return {"seconds": seconds, "bytes": size, **figures, **state, **changes}


@pytest.fixture
def outcome():
    found = Outcome(Setting("metro", "bbr"), link=LINK, hosts={"b": {"congestion": "bbr"}})
    found.runs["bulk"] = {
        "iperf3-1": [a_run(1.0), a_run(2.0, round="r/1")],
        "iperf3-4": [a_run(0.5), a_run(2.5, round="r/1")],
        "dsm": [a_run(1.0), a_run(2.0, round="r/1")],
        "slow": [a_run(4.0, complete=False), a_run(9.0, valid=False)],
        "broken": [a_run(0.1, wrong=True), a_run(0.0, error="OSError: gone")],
    }
    found.runs["first-cold"] = {"dsm": [a_run(0.3)], "cut": [a_run(5.0, complete=False)]}
    found.bounds_s, found.wanted_bytes = {"bulk": 0.5}, {"bulk": 1_000_000}
    found.skipped["redis"] = "module redis"
    return json.loads(json.dumps(found.plain()))


def test_only_what_is_believed_counts(outcome):
    bulk, runs = BY_NAME["bulk"], outcome["runs"]["bulk"]
    assert figures.figures(bulk, runs["dsm"])["median"] == pytest.approx(6.0)
    slow = figures.figures(bulk, runs["slow"])
    assert (slow["median"], slow["runs"], slow["cut_off"]) == (2.0, 1, 1)
    assert figures.figures(bulk, runs["broken"]) == {"median": None, "why": "OSError: gone"}
    assert figures.figures(BY_NAME["first-cold"], outcome["runs"]["first-cold"]["cut"]) == {
        "median": None,
        "why": "cut off",
    }


def test_a_rate_that_was_cut_off_counts_unless_bytes_waited_for_their_turn():
    cut = [a_run(1.0, complete=False, in_order=in_order) for in_order in (True, False)]
    assert figures.figures(BY_NAME["bulk"], cut[:1])["median"] == pytest.approx(8.0)
    assert figures.figures(BY_NAME["bulk"], cut[1:])["why"] == "cut off"


def test_a_share_is_that_of_the_best_control_of_the_same_round(outcome):
    bulk = BY_NAME["bulk"]
    assert figures.shares_of_iperf3(outcome, bulk, "dsm") == pytest.approx([0.5, 1.0])
    assert figures.shares_of_iperf3(outcome, bulk, "broken") == []


def test_the_report_is_written_and_says_what_is_not_in_it(outcome, tmp_path):
    written = {path.name for path in report.write([outcome], tmp_path)}
    assert {"results.json", "results.md"} <= written
    table = (tmp_path / "results.md").read_text()
    assert "bound 16.0" in table
    assert "| **dsm** | 6.00 |" in table
    assert "Not measured: redis (module redis)." in table
    assert "broken | OSError: gone" in table
    assert json.loads((tmp_path / "results.json").read_text()) == [outcome]


def test_what_is_kept_is_joined_link_by_link(outcome, tmp_path):
    other = {**outcome, "name": "geo, bbr"}
    (tmp_path / "runs").mkdir()
    for number, each in enumerate((outcome, other, outcome)):
        (tmp_path / "runs" / f"{number}.json").write_text(json.dumps({**each, "about": {}}))
    joined = {each["name"]: each for each in results.kept(tmp_path)}
    assert joined.keys() == {"metro, bbr", "geo, bbr"}
    assert len(joined["metro, bbr"]["runs"]["bulk"]["dsm"]) == 4
    assert len(joined["geo, bbr"]["runs"]["bulk"]["dsm"]) == 2


# -- targets --


def test_every_line_is_there_and_says_if_it_was_not_measured(outcome):
    assert {(line.measured[:12], line.met) for line in targets.lines([])} == {
        ("not measured", None)
    }
    lines = {line.name: line for line in targets.lines([outcome])}
    bulk = lines["256 MB, 64 KiB reads, warm: metro"]
    assert (bulk.measured, bulk.met) == ("75% (6 Mbit/s, 2 rounds)", False)
    assert lines["cost, client: metro"].met is False
    assert lines["256 MB, 64 KiB reads, warm: geo"].met is None


def test_a_first_access_is_judged_with_tls_and_without():
    found = Outcome(Setting("transatlantic", "bbr"), link=LINK)
    found.runs["first-cold"] = {"dsm-open": [a_run(0.35)], "dsm-tls": [a_run(0.39)]}
    lines = {line.name: line for line in targets.lines([found.plain()])}
    name = "first access, cold session, 1 KiB"
    assert (lines[name].measured, lines[name].met) == ("3.50 RTT (350.0 ms, 1 rounds)", False)
    tls = lines[f"{name}, TLS"]
    assert (tls.measured, tls.met) == ("3.90 RTT (390.0 ms, 1 rounds)", True)


@pytest.mark.parametrize(("recovered", "met"), [((0.4, 0.5, None), True), ((None,) * 3, False)])
def test_a_line_takes_the_middle_of_those_that_recovered_or_did_not(recovered, met):
    overrides = (("rate_bps", targets.CHANGES_RATE_BPS),)
    found = Outcome(Setting("transatlantic", "bbr", overrides=overrides), link=LINK)
    found.runs["step-up"] = {
        "dsm": [a_run(9.0, recovered_s=each, complete=each is not None) for each in recovered]
    }
    lines = {line.name: line for line in targets.lines([found.plain()])}
    assert lines[BY_NAME["step-up"].title].met is met


def test_the_table_chooses_what_there_is_in_the_time_there_is():
    assert all(set(choice.peers) <= PEERS.keys() for choice in plans.TABLE)
    chosen = {name for choice in plans.TABLE for name in choice.workloads}
    assert chosen == set(BY_NAME)
    assert sum(choice.budget_s for choice in plans.TABLE) <= 100 * 60
    assert sum(choice.budget_s for choice in plans.DEFAULTS) <= 18 * 60


def test_a_node_that_is_refused_bbr_sends_with_what_the_system_has():
    with node_refused.Refusing() as sock:
        before = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        with pytest.raises(PermissionError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16) == before
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
