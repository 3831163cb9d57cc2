"""Sweeps of training commands: retries, resumption, judgement anew, reports, and what their ends leave behind."""

import json
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
from support.commands import are_gone, write_command_sweep
from support.forked_sweeps import ForkedSweep, start_command
from support.paths import ROOT

import stableft
from stableft.cli.app import main
from stableft.records.run_record import RECORD_FILE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def start(folder: Path, *more: str) -> ForkedSweep:
    sweep = folder / "s.yaml"
    return start_command(folder / "log", "sweep", sweep, "--results", folder / "R", "--devices", "cpu", *more)


def wait_for_pids(folder: Path, runs: int) -> list[list[int]]:
    deadline = time.monotonic() + 60
    while len(files := [path for path in folder.glob("R/runs/*/pids") if path.read_text()]) < runs:
        assert time.monotonic() < deadline, "the commands have not begun"
        time.sleep(0.05)
    return [json.loads(path.read_text()) for path in files]


@pytest.mark.faults
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_no_command_outlives_its_sweep(tmp_path, number, code):
    write_command_sweep(tmp_path, "hang", seeds="1-2")
    sweep = start(tmp_path, "--jobs-per-device", "2")
    pids = [pid for some in wait_for_pids(tmp_path, 2) for pid in some]
    assert len(pids) == 4
    sweep.send(number, "parent")
    assert sweep.wait(30)
    assert sweep.code == code
    assert are_gone(pids)
    assert not list(tmp_path.glob(f"R/runs/*/{RECORD_FILE}"))


@pytest.mark.faults
def test_a_command_whose_worker_is_killed_is_tried_once_more_and_then_has_crashed(tmp_path, capfd):
    write_command_sweep(tmp_path, "hang", seeds="1")
    sweep = start(tmp_path)
    for _ in range(2):
        (pids,) = wait_for_pids(tmp_path, 1)
        next(tmp_path.glob("R/runs/*/pids")).unlink()
        (worker,) = sweep.workers()
        psutil.Process(worker).kill()
        assert are_gone(pids)
    assert sweep.wait(60)
    assert sweep.code == 1
    log = capfd.readouterr().out  # which a fork has too
    assert "the worker process died with signal 9 (Killed); it is tried once more, from its start" in log
    (frame,) = stableft.load_records(tmp_path / "R").to_dict("records")
    assert (frame["status"], frame["reason"]) == ("crashed", "the worker process died with signal 9 (Killed), twice")


def sweep_again(folder: Path, *more: str) -> int:
    sweep = start(folder, *more)
    assert sweep.wait(200)
    assert sweep.code is not None
    return sweep.code


def records_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.parent.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.glob(f"R/runs/*/{RECORD_FILE}")
    }


def test_crashed_seeds_are_retried_and_finished_ones_never_redone(tmp_path, capfd):
    path = write_command_sweep(tmp_path, "flaky", more="baseline: 0.5", seeds="1-2")
    assert sweep_again(tmp_path, "--jobs-per-device", "2") == 1
    crashed = records_of(tmp_path)
    assert sweep_again(tmp_path) == 1  # without --retry-crashed nothing is done
    assert records_of(tmp_path) == crashed
    assert sweep_again(tmp_path, "--retry-crashed") == 0
    done = records_of(tmp_path)
    assert done.keys() == crashed.keys()
    assert all(b'"written":"0.75"' in line for _, line in done.values())
    assert not list(tmp_path.glob("R/runs/*/crash.txt"))
    path.write_text(path.read_text().replace("baseline: 0.5", "baseline: 0.8\n    timeout: 9").replace("1-2", "1-3"))
    assert sweep_again(tmp_path) == 1  # the new seed's first try
    assert {key: value for key, value in records_of(tmp_path).items() if key in done} == done
    assert "2 of 3 runs done, 2 of them failed, 1 crashed" in capfd.readouterr().out  # by the new baseline
    report = str(stableft.make_report(path, results=tmp_path / "R", with_figures=False))
    assert "2/2" in report


def test_a_claim_about_commands_ends_the_sweep_after_crashed_seeds_are_retried(tmp_path, capfd):
    path = write_command_sweep(tmp_path, more="baseline: 0.5", seeds="1-8")
    theirs = path.read_text()
    mine = theirs.partition("arms:\n")[2].replace("name: theirs", "name: mine").replace("--do train", "--do flaky")
    rule = "decide: {about: failures, looks: [4, 8], between: [theirs, mine]}\n"
    path.write_text(f"{rule}{theirs}{mine.replace('flaky', 'flaky --value 0.3')}")
    jobs = ("--jobs-per-device", "2")
    assert sweep_again(tmp_path, *jobs) == 1
    out = capfd.readouterr().out
    assert out.index("Rule: mine against theirs: the failure rate, alpha 0.05") < out.index("the failure rate is")
    assert "is worse" not in out
    assert sweep_again(tmp_path, *jobs, "--retry-crashed") == 1  # the crashed seeds after the verdict are not retried
    out = " ".join(capfd.readouterr().out.split())
    assert "mine against theirs on mine: the failure rate is worse after 4 runs of each" in out
    assert "saved: no claim needs them" in out
    done = records_of(tmp_path)
    assert sweep_again(tmp_path, *jobs) == 1
    assert records_of(tmp_path) == done
    report = str(stableft.make_report(path, results=tmp_path / "R", with_figures=False))
    assert "Rule, stated before the runs: mine against theirs" in report
    assert "the failure rate is worse, decided after 4 runs of each" in report


def test_a_command_beside_a_recipe(tmp_path, monkeypatch, capfd):
    shutil.copytree(ROOT / "configs" / "smoke", tmp_path / "smoke")
    command = write_command_sweep(tmp_path, "seeded", more="baseline: 0.55").read_text().partition("arms:\n")[2]
    recipe = (ROOT / "configs" / "smoke.yaml").read_text().partition("\narms:")[0].replace("1-5", "1-2")
    command = command.replace("eval_accuracy}", "eval_accuracy, metric: accuracy}")
    (tmp_path / "s.yaml").write_text(f"{recipe}\narms:\n  - recipe: devlin\n{command}")
    assert sweep_again(tmp_path) == 0
    assert "Ended: 4 of 4 runs done" in capfd.readouterr().out
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["stableft", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
        return capfd.readouterr().out

    assert run("status", "s.yaml", "--results", "R").splitlines()[2].split()[:5] == ["theirs", "smoke", "2", "1", "0"]
    assert "(a command)" in run("status", "--results", "R")
    assert "wrote 4 records of 4 runs" in run("export", "s.yaml", "--results", "R", "--out", "r.jsonl")
    of_sweep, of_file = run("report", "s.yaml", "--results", "R"), run("report", "r.jsonl")
    assert of_sweep.splitlines()[-3:] == of_file.splitlines()[-3:]
    assert "train.py --seed '{seed}' --out '{out}'" in of_file.replace("\n  ", " ")
    assert "(failed: at most 0.55)" in of_file.replace("\n  ", " ")
    assert "are not shown to differ in how often" in run("compare", "devlin", "theirs", "--records", "r.jsonl").replace(
        "\n", " "
    )
    assert "its time is the mean of 2 finished runs" in run(
        "sweep", "s.yaml", "--results", "R", "--dry-run", "--devices", "cpu", "--seeds", "1-4", "--arms", "theirs"
    )
    assert "out" in [path.name for path in tmp_path.glob("R/runs/*/*")]
    assert "removed" in run("clean", "s.yaml", "--results", "R", "--weights", "--yes")
    assert "out" not in [path.name for path in tmp_path.glob("R/runs/*/*")]
