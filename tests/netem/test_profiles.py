"""Profiles, topologies, units, what each backend makes of them, and verdicts: no privileges."""

from __future__ import annotations

import importlib.util
from pathlib import Path as FilePath
from random import Random

import dsm_netem
import pytest
from dsm_netem import ConfigError, LinkConfig, TraceError, units
from dsm_netem.backends import RelayBackend
from dsm_netem.namespaces import HostConfig, NotPermitted
from dsm_netem.profiles import profile, profiles
from dsm_netem.tc import left_out, netem_arguments
from dsm_netem.topology import Path, Topology
from dsm_netem.validity import judge
from dsm_netem.wan import Wan

FOLDER = FilePath(dsm_netem.__file__).parent


@pytest.mark.parametrize(
    ("name", "rate_bps", "rtt_s", "loss"),
    [
        ("metro", 1e9, 0.005, 0),
        ("continental", 1e9, 0.040, 1e-5),
        ("transatlantic", 500e6, 0.080, 1e-4),
        ("transpacific", 300e6, 0.180, 1e-4),
        ("leo", 150e6, 0.050, 5e-3),
        ("geo", 50e6, 0.600, 1e-4),
    ],
)
def test_the_profiles_are_what_they_are_known_for(name, rate_bps, rtt_s, loss):
    path = profile(name).path()
    assert path.rtt_s == pytest.approx(rtt_s)
    for config in (path.there, path.back):
        assert (config.rate_bps, config.loss) == (rate_bps, loss)
        assert config.queue_bytes == pytest.approx(rate_bps * rtt_s / 8)  # one BDP


def test_every_profile_says_where_its_figures_come_from():
    assert set(profiles()) >= {"leo", "lte"}
    for found in profiles().values():
        assert found.source
        assert found.summary


def test_leo_blips_every_15_s_and_lte_follows_its_trace():
    (goes, comes) = profile("leo").path().timeline.changes
    assert (goes.updates, comes.updates) == ({"outage": "drop"}, {"outage": "none"})
    assert profile("leo").path().timeline.repeat_s == comes.at_s == 15.0
    lte = profile("lte").path()
    assert lte.back.trace is not None
    assert lte.there.mean_rate_bps < lte.back.mean_rate_bps


def test_the_lte_traces_are_what_their_maker_makes():
    maker = FOLDER / "traces" / "make_lte.py"
    spec = importlib.util.spec_from_file_location("make_lte", maker)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, mean_bps, seed in (("lte-down", 16e6, 4), ("lte-up", 5e6, 5)):
        times = module.opportunities_ms(mean_bps, Random(seed))
        text = (FOLDER / "traces" / f"{name}.trace").read_text()
        assert text == "".join(f"{time}\n" for time in times)


def test_overrides_replace_figures_and_a_rate_replaces_a_trace():
    assert profile("geo", loss=0.1).path().there.loss == 0.1
    lte = profile("lte", rate_bps=1e6).path()
    assert lte.there.trace is None
    assert lte.there.rate_bps == 1e6
    bursty = profile("metro", loss=0.01, loss_burst_packets=5).path().there
    assert bursty.bursts is not None
    assert bursty.mean_loss == pytest.approx(0.01)


@pytest.mark.parametrize(
    "overrides",
    [
        {"loss": 2},
        {"rate_bps": -1},
        {"rtt_s": -1},
        {"queue_bytes": 0},
        {"queue_bdp": 0},
        {"speed": 1},
        {"loss_burst_packets": 0.5},
    ],
)
def test_impossible_overrides_are_refused(overrides):
    with pytest.raises(ConfigError):
        profile("transatlantic", **overrides).path()


def test_framing_and_headers_are_taken_off_what_a_link_can_carry():
    link = profile("transatlantic").path().there
    assert link.goodput_bps() == pytest.approx(500e6 * 1448 / 1538)
    assert link.goodput_bps(9000) == pytest.approx(500e6 * 8948 / 9038)
    assert LinkConfig().goodput_bps() is None
    with Wan("transatlantic", backend="relay") as wan:  # of byte streams
        assert wan.goodput_bps("b", "a") == 500e6


def test_without_pyroute2_there_is_the_relay(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotPermitted, match=r"pip install 'dsm-wan\[netem\]'.*relay"):
        Wan("metro", backend="tun").start()
    with Wan("metro") as wan:
        assert wan.backend == "relay"
        assert all("pyroute2" in reason for reason in wan.passed_over)


def test_what_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"no profile 'mars'.*metro"):
        profile("mars")
    with pytest.raises(TraceError, match="no-such-file"):
        profile("lte", trace_there="/no-such-file").path()


def test_configs_and_paths_survive_json():
    import json

    for found in profiles().values():
        path = found.path()
        assert Path.of_plain(json.loads(json.dumps(path.plain()))) == path


# -- topologies --


def star() -> Topology:
    def path(rtt_ms: float) -> Path:
        return Path(LinkConfig(delay_s=rtt_ms / 2e3), LinkConfig(delay_s=rtt_ms / 2e3))

    return Topology.of(
        {("berlin", "ny"): path(80), ("ny", "tokyo"): path(180), ("ny", "lima"): path(90)}
    )


def test_packets_go_over_the_fewest_links():
    topology = star()
    hops = topology.next_hops()
    assert hops["berlin", "tokyo"] == "ny"
    assert hops["ny", "tokyo"] == "tokyo"
    assert topology.rtt_s("berlin", "tokyo") == pytest.approx(0.260)
    assert topology.ipv4("tokyo") == "10.99.0.3"


def test_impossible_topologies_are_refused():
    path = Path(LinkConfig(), LinkConfig())
    for hosts, links in (
        (("a",), {}),
        (("a", "b"), {}),
        (("a", "b", "c"), {("a", "b"): path}),
        (("a", "b"), {("a", "b"): path, ("b", "a"): path}),
        (("a", "b"), {("a", "x"): path}),
        (("a", "B!"), {("a", "B!"): path}),
    ):
        with pytest.raises(ConfigError):
            Topology(hosts, links)


# -- units --


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (units.rate_bps, "500M", 500e6),
        (units.rate_bps, "1.5 Gbit/s", 1.5e9),
        (units.rate_bps, "unlimited", None),
        (units.seconds, "80ms", 0.08),
        (units.seconds, "0.5s", 0.5),
        (units.size_bytes, "64KiB", 65536),
        (units.probability, "0.1%", 0.001),
        (units.probability, "1e-4", 1e-4),
    ],
)
def test_figures_are_read_as_people_write_them(read, text, value):
    assert read(text) == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("read", "text"),
    [(units.rate_bps, "fast"), (units.seconds, "80"), (units.probability, "5 apples")],
)
def test_other_texts_are_refused(read, text):
    with pytest.raises(ConfigError, match=text):
        read(text)


# -- what a backend makes of a profile --


def test_netems_limit_holds_what_is_under_way_besides_the_queue():
    arguments = netem_arguments(LinkConfig(rate_bps=1e9, delay_s=0.04, queue_bytes=1_500_000))
    assert arguments["limit"] >= (1e9 / 8 * 0.04 + 1_500_000) / 1500
    assert arguments["rate"] == 125_000_000
    assert arguments["delay"] == 40_000


def test_netem_and_the_relay_say_what_they_leave_out():
    path = profile("leo", corrupt_silent=0.1).path()
    assert {"silent flips", "scheduled changes", "its own lateness"} <= set(left_out(path))
    relay = RelayBackend(Topology.pair(path), {"a": HostConfig(), "b": HostConfig()}, 0)
    assert {"loss", "corrupt_silent", "scheduled outages"} <= set(relay.cannot)
    relay.close()


# -- verdicts --


@pytest.mark.parametrize(
    ("late_us", "rtt_s", "valid"),
    [(900, 0.005, True), (1100, 0.005, False), (1100, 0.080, True), (1700, 0.080, False)],
)
def test_lateness_is_allowed_up_to_1_ms_or_2_per_cent_of_the_round_trip(late_us, rtt_s, valid):
    assert judge({"lateness": {"p99_us": late_us}}, rtt_s).valid == valid


def test_losses_outside_of_the_link_make_a_run_invalid():
    verdict = judge({"device_drops": {"a": 3, "b": 0}, "write_errors": 2}, 0.1)
    assert len(verdict.reasons) == 2
    assert "device of a" in str(verdict)
