"""The `dsm-netem` command, run as a person runs it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest


def dsm_netem(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dsm_netem.command", *args]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "200"},
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run", "mars", "--", "true"], "no profile 'mars'; there are: metro"),
        (["run", "metro", "--backend", "ns3", "--", "true"], "no backend 'ns3'"),
        (["run", "metro", "--loss", "1.5", "--", "true"], "probability must be in [0, 1]"),
        (["run", "metro", "--rate", "-3M", "--", "true"], "rate of -3e+06 bit/s"),
        (["run", "metro", "--rtt", "80", "--", "true"], "'80' is not a time such as 80ms"),
        (["run", "metro", "--queue", "0", "--", "true"], "a queue of 0 bytes"),
        (["run", "metro", "--queue", "-1ms", "--", "true"], "queue_s of -0.001: must be above 0"),
        (["run", "metro", "--sockets", "big", "--", "true"], "must be stock, raised or machine"),
        (["run", "metro", "--trace-back", "/none", "--", "true"], "delivery trace /none"),
        (["run", "metro", "--", "no-such-program"], "no such command: no-such-program"),
        (["run", "metro", "--backend", "relay", "--", "no-such-program"], "no such command"),
        (["run", "metro", "--on-b", "no-such-program", "--", "true"], "no such command"),
        (["run", "metro", "--congestion", "newvegas", "--", "true"], "'newvegas'"),
        (["calibrate", "mars"], "no profile 'mars'"),
        (["shell", "metro", "--jitter", "-1ms"], "jitter_s of -0.0005 s"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(args, said):
    done = dsm_netem(*args)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dsm-netem:")]
    assert said in line
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (2, "")


def test_profiles_lists_all_with_their_sources():
    listed = json.loads(dsm_netem("profiles", "-o", "json").stdout)
    assert listed["transatlantic"]["rate_bps"] == 500e6
    assert all(facts["source"] for facts in listed.values())
    assert "transatlantic" in dsm_netem("profiles").stdout


ASK = """
import json, socket, subprocess, sys
server = subprocess.Popen([*'{on_b}'.split(), sys.executable, '-c', '''
import socket
with socket.create_server(("{b}", 7777)) as listener:
    print("up", flush=True); end, peer = listener.accept(); end.sendall(peer[0].encode())
'''], stdout=subprocess.PIPE)
server.stdout.readline()
print(socket.create_connection(("{b}", 7777)).recv(100).decode(), '{a}')
sys.exit(7)
"""


def test_run_carries_two_programs_and_tells_what_happened(wan, tmp_path):
    wan("metro").close()
    file = tmp_path / "statistics.json"
    options = ["--seed", "5", "--congestion", "reno", "--json", str(file)]
    done = dsm_netem("run", "metro", *options, "--", sys.executable, "-c", ASK)
    assert (done.returncode, done.stdout) == (7, "10.99.0.1 10.99.0.1\n")
    statistics = json.loads(file.read_text())
    assert statistics["hosts"]["a"]["congestion"] == "reno"
    assert statistics["seed"] == 5
    assert statistics["links"]["a->b"]["out_packets"] >= 3
    assert "the run is" in done.stderr


SERVE = "import socket; socket.create_server(('', 7778)).accept()[0].sendall(b'hello')"
FETCH = "import socket; print(socket.create_connection(('{b}', {port})).recv(9))"


@pytest.mark.parametrize("backend", ["tun", "relay"])
def test_a_program_on_b_is_waited_for_and_ended(wan, backend):
    wan("metro").close()
    serve = f'{sys.executable} -c "{SERVE}"'
    options = ["--backend", backend, "--on-b", serve, "--port", "7778", "--watch"]
    done = dsm_netem("run", "metro", *options, "--", sys.executable, "-c", FETCH)
    assert (done.returncode, done.stdout) == (0, "b'hello'\n")


def test_a_port_that_nobody_listens_on_is_an_error(monkeypatch):
    from dsm_netem import command
    from dsm_netem.config import ConfigError
    from dsm_netem.host import Host

    monkeypatch.setattr(command, "LISTEN_TIMEOUT_S", 0.1)
    with pytest.raises(ConfigError, match="nobody listens on port 1 of b"):
        command._wait_for(Host("b", "127.0.0.1", "::1", None, {}), 1)


def test_shell_is_on_a_and_knows_b(wan):
    wan("metro").close()
    near, far = pty.openpty()
    command = [sys.executable, "-m", "dsm_netem.command", "shell", "metro"]
    with subprocess.Popen(
        command, stdin=far, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "SHELL": "/bin/sh"},
    ) as shell:  # fmt: skip
        os.write(
            near, b"echo at=$A to=$B; $ON_B cat /proc/net/fib_trie | grep -c 10.99.0.2\nexit 3\n"
        )
        output = shell.communicate(timeout=30)[0]
    os.close(near)
    os.close(far)
    assert shell.returncode == 3
    assert "at=10.99.0.1 to=10.99.0.2" in output
    assert int(output.split()[-1]) > 0
