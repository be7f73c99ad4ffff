"""The fixture `wan`: it skips where the machine refuses, says why, and hides nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
def test_runs(wan):
    assert set(wan("metro").hosts) == {"a", "b"}

def test_is_wrong(wan):
    wan("mars")
"""
DROP = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(24, 12, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_NET_ADMIN
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def outcomes(folder: Path, *prefix: str) -> str:
    (folder / "test_it.py").write_text(TESTS)
    command = [sys.executable, *prefix, "-m", "pytest", "-rs", "-p", "dsm_netem.pytest_plugin"]
    command += ["-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=60, check=False
    ).stdout


def test_it_skips_with_the_reason_and_nothing_that_could_have_run(wan, tmp_path):
    wan("metro").close()
    assert "1 failed, 1 passed" in outcomes(tmp_path)
    refused = outcomes(tmp_path, "-c", DROP)
    assert "1 failed, 1 skipped" in refused  # a name that is unknown is no reason to skip
    assert "CAP_NET_ADMIN" in refused
