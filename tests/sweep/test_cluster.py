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
    found = json.loads(out.read_text())
    few, many = found["trials"]
    names = found["one pilot"]
    assert names["before"] >= 4  # looks for each record: for the notes, then three states of the sweep
    assert names["mine"] > names["file"] > 0
    assert (few["pilots killed"], many["pilots killed"]) == (1, 2)
    for trial in (few, many):
        assert [trial[name] for name in ("lost", "done twice", "two at once", "pilots that failed")] == [0] * 4
        assert trial["begun again"] > 0
        assert trial["CPU ms a run in claims"] + trial["CPU ms a run in records"] < 10
    assert f"| lost | {few['lost']} | {many['lost']} |" in out.with_suffix(".md").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the script is for Linux")
def test_the_committed_figures_are_those_of_the_script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from bench_cluster import extrapolate, to_markdown

    folder = ROOT / "results" / "reliability"
    found = json.loads((folder / "cluster.json").read_text())
    assert extrapolate(found["trials"], found["one pilot"]) == found["extrapolated"]
    assert to_markdown(found) == (folder / "cluster.md").read_text()
