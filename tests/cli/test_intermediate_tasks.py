"""The whole way by the command line: toy RTE after toy MRPC, and runs that are stopped as hopeless."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.forked_sweeps import start_command
from support.processes import SITECUSTOMIZE, customize, start_stableft, wait_for_success, wait_while_running
from support.training_runs import train_run

from stableft.config.planned_run import Execution, LocalPaths
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.records.run_record import (
    CHECKPOINT_FILE,
    HISTORY_FILE,
    PREDICTIONS_FILE,
    RECORD_FILE,
    read_record,
    run_folder,
)
from stableft.training.setup import prepare_run

pytestmark = [pytest.mark.usefixtures("warm_workers"), pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = "data: {split: dev, train_rows: 64, max_length: 32}, schedule.length: {epochs: EPOCHS}, precision: fp32"
SWEEP = """
task: toy-rte
model: MODEL
recipe: mosbach
seeds: 1-3
set: {SHORT, evaluation: {every: {times: 3}, report: last}}
arms:
  - name: plain
  - name: after-mrpc
    set:
      start_from: {recipe: mosbach, task: toy-mrpc, seed: 1, set: {LONG, evaluation: {every: {times: 2}, report: last}}}
"""
SWEEP = SWEEP.replace("SHORT", SETTINGS.replace("EPOCHS", "3")).replace("LONG", SETTINGS.replace("EPOCHS", "8"))
OPTIONS = "--devices cpu --checkpoint-every 2".split()
RULE = "stop_hopeless={after: 0.3, lowest: 0.5}"


@pytest.fixture
def expanded(workplace, tiny_model_folder, monkeypatch) -> Sweep:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for workers, whose bits are compared with those of one thread
    (workplace / "s.yaml").write_text(SWEEP.replace("MODEL", str(tiny_model_folder)))
    return load_sweep("s.yaml", LocalPaths())


@pytest.fixture
def site(tmp_path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model_folder) -> Path:
    """Returns the results of all seven runs, each trained in this process without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "s.yaml").write_text(SWEEP.replace("MODEL", str(tiny_model_folder)))
    sweep = load_sweep(folder / "s.yaml", LocalPaths(cache_dir=folder / "cache"))
    for run in (*sweep.start_runs, *sweep.runs):
        train_run(run, folder, sweep.sources, save="last")
    return folder


def bits(results: Path, run_id: str) -> tuple[bytes, bytes]:
    folder = run_folder(results, run_id)
    return (folder / HISTORY_FILE).read_bytes(), (folder / PREDICTIONS_FILE).read_bytes()


def test_toy_rte_after_toy_mrpc(expanded, stableft, workplace):
    (parent,) = expanded.start_runs
    plain, after = expanded.runs[:3], expanded.runs[3:]
    words = f"run {parent.run_id} (mosbach on toy-mrpc, seed 1), from which 3 runs start"
    code, out, _ = stableft("sweep", "s.yaml", "--dry-run", "--devices", "cpu")
    assert code == 0
    assert f"{words}, is trained first" in out
    lines = out.splitlines()
    first, *measured = lines[: next(i for i, line in enumerate(lines) if line.startswith("arm "))]
    assert first.startswith("checking the inputs, then measuring")
    assert measured[-3:] == [
        f"measuring {name} ..."
        for name in (f"(start) {parent.run_id} on toy-mrpc", "plain on toy-rte", "after-mrpc on toy-rte")
    ]
    assert lines[len(measured) + 2].split()[:5] == ["(start)", parent.run_id, "toy-mrpc", "1", "1"]
    assert "7 runs left" in out
    assert not (workplace / "results").exists()
    assert words in stableft("show", "s.yaml")[1]
    assert f"{words}: to do" in stableft("status", "s.yaml")[1]

    code, out, err = stableft("sweep", "s.yaml", "--seeds", "1-2", *OPTIONS)
    assert (code, err) == (0, "")
    assert "Ended: 4 of 4 runs done" in out
    assert out.index("toy-mrpc") < out.index("after-mrpc toy-rte")
    start = f"after-mrpc on toy RTE: the runs start from the last weights of run {parent.run_id} (mosbach on toy-mrpc,"
    assert start in " ".join(Path("results/sweeps/s/report.md").read_text().split())
    results = Path("results")
    folder = run_folder(results, parent.run_id)
    before = (folder / RECORD_FILE).read_bytes()

    theirs = load_file(folder / "model-last" / "model.safetensors")
    heads = []
    for run in after[:2]:
        _, state = prepare_run(run, results, expanded.sources, Execution(threads=1))
        ours = state.model.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours if name.startswith("bert."))
        heads.append(ours["classifier.weight"])
        _, alone = prepare_run(plain[after.index(run)], results, expanded.sources, Execution(threads=1))
        assert torch.equal(alone.model.state_dict()["classifier.weight"], ours["classifier.weight"])  # the same draw
    assert not torch.equal(*heads)
    first = [
        json.loads((run_folder(results, run.run_id) / HISTORY_FILE).read_text().splitlines()[0])
        for run in expanded.runs
        if (run_folder(results, run.run_id) / HISTORY_FILE).exists()
    ]
    assert len({line["loss"] for line in first}) == 4

    assert stableft("sweep", "s.yaml", *OPTIONS)[0] == 0  # one seed more
    assert (folder / RECORD_FILE).read_bytes() == before
    digests = {read_record(results, run.run_id).start.sha256 for run in after}
    assert len(digests) == 1
    assert (
        f"{words}: finished" in stableft("status", "s.yaml")[1] or f"{words}: failed" in stableft("status", "s.yaml")[1]
    )
    assert "wrote 6 records of 6 runs to out.jsonl, plus 1" in stableft("export", "s.yaml", "--out", "out.jsonl")[1]
    out = stableft("report", "out.jsonl", "--notes")[1]
    assert "(start)" not in out
    assert start in " ".join(out.split())


@pytest.mark.faults
def test_killed_in_the_parent_and_in_a_child(expanded, whole, site, workplace):
    (parent,) = expanded.start_runs
    arguments = ("sweep", "s.yaml", "--arms", "after-mrpc", *OPTIONS, "--results", "killed")
    after = expanded.runs[3:]
    expected = {run.run_id: bits(whole, run.run_id) for run in (parent, *after)}
    for run in (parent, after[0]):
        checkpoint = run_folder(Path("killed"), run.run_id) / CHECKPOINT_FILE
        process = start_command(workplace / "log", *arguments, change=partial(customize, site))
        assert wait_while_running(process, checkpoint.exists), process.log.read_text()
        process.end()
        assert not (checkpoint.parent / RECORD_FILE).exists()
    wait_for_success(start_stableft(site, workplace, *arguments))
    assert {run_id: bits(Path("killed"), run_id) for run_id in expected} == expected


@pytest.mark.nightly
def test_hopeless_runs_end_and_the_others_are_as_ever(expanded, whole, stableft):
    runs = [run.run_id for run in expanded.runs[:3]]
    plain = ("sweep", "s.yaml", "--arms", "plain", *OPTIONS)
    expected = {run_id: bits(whole, run_id) for run_id in runs}
    code, out, _ = stableft(*plain, "--set", RULE, "--dry-run")
    assert "checkpoints of 3 runs" in out
    code, out, _ = stableft(*plain, "--set", RULE)
    assert code == 0
    assert re.search("plain toy-rte: 1 of 3 runs .*hopeless", out)
    assert re.search(r"^Ended: 2 of 3 runs done(, \d of them failed)?, 1 stopped early as hopeless$", out, re.MULTILINE)
    assert "2 of 3" in out  # of the runs are in the table
    results = Path("results")
    report = " ".join((results / "sweeps/s/report.md").read_text().split())
    assert re.search(r"1 of 3 runs .*hopeless \(.*lowest 50 % .*validation score after 30 % of the steps\)", report)
    records = {run_id: read_record(results, run_id) for run_id in runs}
    (ended,) = [record for record in records.values() if record.status == "stopped"]
    going_on = [run_id for run_id in runs if run_id != ended.run_id]
    assert {run_id: bits(results, run_id) for run_id in going_on} == {run_id: expected[run_id] for run_id in going_on}
    trial = {run_id: next(p for p in read_record(whole, run_id).evals if p.epoch >= 0.9) for run_id in runs}
    assert ended.stop.score == min(point.val["accuracy"] for point in trial.values())
    assert {path.name for path in run_folder(results, ended.run_id).iterdir()} == {
        "config.yaml", "record.json", "history.jsonl"
    }  # fmt: skip
    assert "plain  toy-rte  2" in stableft("status", "s.yaml", "--arms", "plain")[1]
    table = json.loads(stableft("report", "s.yaml", "--arms", "plain", "--format", "json")[1])
    assert json.dumps(table).count('"n": 2')
    code, out, _ = stableft(*plain)
    assert (code, "Ended: 3 of 3 runs done" in out) == (0, True)
    assert {run_id: bits(results, run_id) for run_id in runs} == expected
