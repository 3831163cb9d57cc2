"""Pilots that share a sweep on one folder, some killed, some stopped: a small trial of `scripts/bench cluster`."""

import json
import subprocess
import sys

import pytest
from support.paths import ROOT


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="names hosts and looks for processes in /proc")
def test_pilots_lose_nothing_and_do_nothing_twice(tmp_path):
    out = tmp_path / "cluster.json"
    small = "--runs 80 --pilots 4 10 --hosts 3 --killed 0.2 --stopped 1 --seconds 0.2 --expiry 4".split()
    command = [sys.executable, ROOT / "scripts" / "bench_cluster.py", *small, "--out", out]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    few, many = json.loads(out.read_text())["trials"]
    assert (few["pilots killed"], many["pilots killed"]) == (1, 2)
    for trial in (few, many):
        assert [trial[name] for name in ("lost", "done twice", "two at once", "pilots that failed")] == [0] * 4
        assert trial["begun again"] > 0
        assert trial["CPU ms a run in claims"] + trial["CPU ms a run in records"] < 10
    assert f"| lost | {few['lost']} | {many['lost']} |" in out.with_suffix(".md").read_text()
