"""Pilots on a real Slurm of one node: shared runs, time limits, requeues, a lost node, pre-emption, cancelling."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from support.commands import write_command_sweep
from support.paths import ROOT
from support.slurm_node import SlurmNode, why_no_slurm
from support.training_runs import run_outputs

from stableft.python_api import plan_sweep
from stableft.records.run_record import CHECKPOINT_FILE, read_record, run_folder

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(why_no_slurm() is not None, reason=f"{why_no_slurm()}"),
]

SUBMIT = ("--executor", "slurm", "--devices", "cpu")
# Steps take no time to speak of, but the pilots' writes do while a test wants it: the run takes minutes on any machine.
LONG = ("--seeds", "1", "--arms", "mosbach", "--set", "schedule.length={steps: 1200}", "--checkpoint-every", "10")
SLOW_WRITES = """
import os, time
slow, fsync = os.path.join(os.path.dirname(__file__), "slow"), os.fsync
os.fsync = lambda handle: (time.sleep(2 * os.path.exists(slow)), fsync(handle))
"""


@pytest.fixture
def cluster(workplace, monkeypatch):
    """Starts a cluster, whose programs find it, and whose jobs have one thread."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # not below pytest's: names of sockets must be short
    node = SlurmNode(folder)
    monkeypatch.setenv("SLURM_CONF", node.environment["SLURM_CONF"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    try:
        node.start()
        yield node
    finally:
        node.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_script_starts_a_cluster_for_a_command_and_ends_it():
    script, sinfo = ROOT / "scripts/slurm-node", "sinfo -h -p main -o %T; echo $SLURM_CONF; exit 7"
    done = subprocess.run([script, "bash", "-c", sinfo], capture_output=True, text=True, timeout=300)
    state, config = done.stdout.split()
    assert (done.returncode, state) == (7, "idle"), done.stderr
    assert not Path(config).exists()
    assert not [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get("SLURM_CONF") == config]


class LongRun:
    """One run that takes minutes, here and in a folder of its own that nothing disturbs."""

    def __init__(self, cluster: SlurmNode, stableft, folder: Path, slow: Path):
        self.cluster, self.stableft, self.results, self.slow = cluster, stableft, folder / "results", slow
        (self.run,) = plan_sweep("smoke", [LONG[5]], ["mosbach"], 1).runs
        self.checkpoint = run_folder(self.results, self.run.run_id) / CHECKPOINT_FILE
        code = "from stableft.cli.app import main; main()"
        alone = [sys.executable, "-c", code, "sweep", "smoke", *LONG, "--devices", "cpu", "--results", "alone"]
        self.undisturbed = subprocess.Popen(alone, stdout=subprocess.DEVNULL)

    def submit(self, *options: str) -> str:
        """Returns the id of the job."""
        code, out, err = self.stableft("sweep", "smoke", *LONG, *SUBMIT, "--pilots", "1", *options)
        assert code == 0, err
        return out.partition("as job ")[2].split()[0]

    def pilot(self, job: str) -> dict:
        return json.loads((self.results / f"sweeps/smoke/slurm/pilots/{job}_1.json").read_text())

    def log(self, job: str) -> str:
        path = self.results / f"sweeps/smoke/slurm/{job}_1.log"
        return path.read_text() if path.exists() else ""

    def written(self) -> int:
        return self.checkpoint.stat().st_mtime_ns if self.checkpoint.exists() else 0

    def wait_for_checkpoint(self) -> None:
        before = self.written()
        self.cluster.wait_until(lambda: self.written() not in (0, before), 180)

    def wait_for_the_end(self, job: str) -> None:
        self.cluster.wait_until(lambda: self.cluster.states(job) in (["COMPLETED"], []), 1500)

    def assert_same_bits(self) -> None:
        assert self.undisturbed.wait(1500) == 0
        ours, alone = (read_record(folder, self.run.run_id) for folder in (self.results, Path("alone")))
        assert ours
        assert alone
        assert run_outputs(self.results, ours) == run_outputs(Path("alone"), alone)


@pytest.fixture
def long_run(cluster, stableft, workplace, tmp_path, monkeypatch):
    slow = tmp_path / "site" / "slow"
    run = LongRun(cluster, stableft, workplace, slow)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SLOW_WRITES)
    slow.touch()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ['PYTHONPATH']}")
    yield run
    run.undisturbed.kill()
    run.undisturbed.wait()


def test_two_pilots_share_a_sweep_that_is_submitted_once(cluster, stableft, workplace):
    sweep = ("sweep", "smoke", "--seeds", "1-2", "--set", "schedule.length={steps: 40}", *SUBMIT, "--pilots", "2")
    for options, sentence in (
        (("--slurm-partition", "nope"), "--slurm-partition nope: this cluster has main, urgent, short, far"),
        (("--slurm-partition", "far"), "pilots on elsewhere cannot see this folder: it is for temporary files"),
        (
            ("--slurm-partition", "short"),
            "the time limit of partition short, which holds without --slurm-time: must be at least 240 s",
        ),
        (("--slurm-gpus", "3"), "sbatch: allocation failure: Requested node configuration is not available"),
        (("--slurm-time", "4:00:00"), "--slurm-time 4:00:00: partition main allows 60 minutes at most"),
        (("--slurm-arg", "licenses=none:2"), "sbatch: allocation failure: Invalid license specification"),
    ):
        code, out, err = stableft(*sweep, *options)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert sentence in err
    assert cluster.call("squeue", "-h") == ""
    assert not (workplace / "results").exists()

    code, out, err = stableft(*sweep)
    assert (code, err) == (0, "")
    assert "submitted 2 pilots as job " in out
    job = out.partition("as job ")[2].split()[0]
    code, out, _ = stableft(*sweep)
    assert (code, out.splitlines()[-1]) == (0, "0 runs are done, 0 crashed, 4 left: nothing to submit")
    cluster.wait_until(lambda: cluster.states(job) in (["COMPLETED"] * 2, []), 300)
    _, out, _ = stableft("status", "smoke", "--seeds", "1-2", "--set", "schedule.length={steps: 40}")
    assert out.splitlines()[-2:] == ["runs: 4 done, 0 crashed, 0 left", "pilots: 0 running, 0 queued (Slurm job -)"]
    pilots = [json.loads(path.read_text()) for path in (workplace / "results").glob("sweeps/smoke/slurm/pilots/*")]
    assert sum(pilot["done"] for pilot in pilots) == 4
    assert [(pilot["ended"], pilot["failed"]) for pilot in pilots] == [("no run is left for it", False)] * 2
    logs = [path.read_text() for path in (workplace / "results").glob("sweeps/smoke/slurm/*.log")]
    closing = [line for log in logs for line in log.splitlines() if line.startswith("Ended: ")]
    assert len(closing) == 2
    assert all(" of 4 runs done" in line and " left" not in line for line in closing), closing
    assert [log for log in logs if "the report beside them in five forms" in log]
    assert (workplace / "results" / "sweeps" / "smoke" / "report.json").exists()
    code, out, _ = stableft(*sweep)
    assert (code, out) == (0, "4 runs are done, 0 crashed, 0 left: nothing to submit\n")


@pytest.mark.nightly
def test_a_run_goes_on_over_time_limits_with_the_same_bits(long_run):
    job = long_run.submit("--slurm-time", "4")
    long_run.cluster.wait_until(lambda: "This task is requeued" in long_run.log(job), 300)
    assert long_run.checkpoint.exists()
    assert long_run.pilot(job)["idle_requeues"] == 0
    long_run.slow.unlink()
    long_run.wait_for_the_end(job)
    long_run.assert_same_bits()


@pytest.mark.nightly
def test_requeues_a_lost_node_and_cancelling_change_no_bit(long_run):
    cluster = long_run.cluster
    job = long_run.submit("--slurm-time", "50")
    task = f"{job}_1"
    long_run.wait_for_checkpoint()
    cluster.call("scontrol", "requeue", task)
    cluster.wait_until(lambda: "Slurm ends this task" in long_run.log(job), 60)
    long_run.wait_for_checkpoint()

    urgent = cluster.call("sbatch", "--parsable", "-p", "urgent", "--exclusive", "-t", "5", "--wrap", "sleep 3")
    cluster.wait_until(lambda: cluster.states(urgent) == ["COMPLETED"], 90)  # the pilot made room for it
    long_run.wait_for_checkpoint()

    slurmd = cluster.daemons.pop("slurmd")
    plans = f"{long_run.results.absolute()}/sweeps"
    pilots = [one for one in psutil.process_iter(["cmdline"]) if plans in " ".join(one.info["cmdline"] or ())]
    keepers = [one.parent() for one in pilots]  # slurmstepd, which would report the death of its job
    for process in (slurmd, *filter(None, keepers), *pilots):  # as by a node that is switched off
        os.kill(process.pid, signal.SIGKILL)
    slurmd.wait()
    cluster.wait_until(lambda: cluster.states(task) == ["PENDING"], 120)
    _, out, _ = long_run.stableft("status", "smoke", *LONG[:-2])
    assert f"pilot {task} is queued again" in out
    cluster.start_daemon("slurmd", "-D")
    long_run.wait_for_checkpoint()

    code, out, _ = long_run.stableft("sweep", "smoke", "--stop")
    assert (code, "1 running" in out, "cancelled" in out) == (0, True, True)
    cluster.wait_until(lambda: cluster.states(task) in (["CANCELLED"], []), 60)
    assert long_run.pilot(job)["ended"] == "ended by Slurm"
    code, out, _ = long_run.stableft("sweep", "smoke", "--stop")
    assert "no pilots" in out

    long_run.slow.unlink()
    job = long_run.submit("--slurm-time", "50")
    long_run.wait_for_the_end(job)
    long_run.assert_same_bits()


@pytest.mark.nightly
def test_a_submission_while_cancelled_pilots_still_end_leaves_them_out(long_run):
    job = long_run.submit("--slurm-time", "50")
    long_run.wait_for_checkpoint()
    submit = ("sweep", "smoke", *LONG, *SUBMIT, "--pilots", "1", "--slurm-time", "50")
    assert long_run.stableft("sweep", "smoke", "--stop")[0] == 0
    assert long_run.cluster.states(f"{job}_1") == ["COMPLETING"]
    code, out, _ = long_run.stableft(*submit)
    assert (code, out.splitlines()[0]) == (0, f"pilots: 0 running, 0 queued, 1 ending (Slurm job {job})")
    assert "submitted 1 pilots" in out
    long_run.slow.unlink()
    long_run.wait_for_the_end(out.partition("as job ")[2].split()[0])
    long_run.assert_same_bits()


@pytest.mark.nightly
def test_every_task_of_an_array_is_requeued_twice_without_a_new_checkpoint(cluster, workplace):
    """Its last task has the id of the whole array as its own."""
    code = "from pathlib import Path; from stableft.sweep.pilot import Pilot; print('start')\n"
    code += "Pilot.of_this_job(Path('results'), 'smoke').requeue(print); import time; time.sleep(20)"
    (workplace / "job.sh").write_text(f'#!/bin/bash\nexec {sys.executable} -u -c "{code}"\n')
    options = ("--parsable", "--requeue", "--array=1-3", "--open-mode=append", f"--output={workplace}/log_%a")
    job = cluster.call("sbatch", *options, str(workplace / "job.sh"))
    logs = [workplace / f"log_{task}" for task in (1, 2, 3)]
    cluster.wait_until(lambda: all(log.exists() and "not requeued" in log.read_text() for log in logs), 240)
    time.sleep(5)
    assert [log.read_text().splitlines().count("start") for log in logs] == [3, 3, 3]
    pilots = [workplace / f"results/sweeps/smoke/slurm/pilots/{job}_{task}.json" for task in (1, 2, 3)]
    assert [json.loads(pilot.read_text())["failed"] for pilot in pilots] == [True] * 3


@pytest.mark.nightly
def test_two_pilots_share_the_runs_of_a_command(cluster, stableft, workplace):
    write_command_sweep(workplace)
    code, out, err = stableft("sweep", "s.yaml", *SUBMIT, "--pilots", "2")
    assert (code, err) == (0, "")
    job = out.partition("as job ")[2].split()[0]
    cluster.wait_until(lambda: cluster.states(job) in (["COMPLETED"] * 2, []), 300)
    assert "runs: 3 done, 0 crashed, 0 left" in stableft("status", "s.yaml")[1].splitlines()
    records = [read_record(workplace / "results", run.run_id) for run in plan_sweep("s.yaml").runs]
    assert all(record and record.reported_score is not None for record in records)
    pilots = [json.loads(path.read_text()) for path in (workplace / "results").glob("sweeps/s/slurm/pilots/*")]
    assert sum(pilot["done"] for pilot in pilots) == 3
    assert (workplace / "results" / "sweeps" / "s" / "report.json").exists()
