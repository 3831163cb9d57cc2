"""Pilots without a cluster: time limits, the batch script, what is refused, the plan's file, runs left to others."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.decided_sweeps import DATA, make_decided_sweep, make_scored_record
from support.paths import ROOT
from support.sweep_records import make_record, make_run, save_record

from stableft.cli.slurm_commands import describe_pilots
from stableft.config.command_config import ScoreMeaning
from stableft.config.decide_rule import DecideRule, Margins
from stableft.config.planned_run import Execution, LocalPaths
from stableft.errors import UserError
from stableft.python_api import plan_sweep
from stableft.records.run_record import run_folder
from stableft.sweep.claims import claim_run
from stableft.sweep.estimate import estimate_sweep, render_estimate
from stableft.sweep.local_workers import LocalExecutor, count_cores
from stableft.sweep.preflight import check_sweep_inputs
from stableft.sweep.slurm import SlurmOptions, check_options, logs_folder, parse_time_limit, write_script
from stableft.sweep.submitted_plan import dump_plan, name_plan, read_plan
from stableft.sweep.workers import run_with_workers

SUBMIT = ("sweep", "smoke", "--executor", "slurm", "--devices", "cpu")


@pytest.fixture
def without_slurm(workplace, monkeypatch):
    monkeypatch.setenv("PATH", str(workplace))
    return workplace


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("4", 240),
        ("4:30", 270),
        ("1:00:30", 3630),
        ("2-3", 183_600),
        ("1-0:30", 88_200),
        ("0", float("inf")),
        ("UNLIMITED", float("inf")),
    ],
)
def test_time_limits_are_those_of_sbatch(text, seconds):
    assert parse_time_limit(text) == seconds


def test_what_is_refused():
    for options, sentence in (
        (SlurmOptions(time="3:59"), r"--slurm-time 3:59: must be at least 240 s, 120 of them .* 120 \(--slurm-warn\)"),
        (SlurmOptions(time="10", warn=600), "--slurm-time 10: must be at least 720 s"),
        (SlurmOptions(time="4h"), "--slurm-time 4h: must be minutes, H:M:S or D-H:M:S"),
        (SlurmOptions(arguments=("time=5",)), "--slurm-arg time=5: use --slurm-time"),
        (SlurmOptions(arguments=("--array=1-9",)), "the pilots' script sets array itself"),
        (SlurmOptions(arguments=("account=",)), "--slurm-arg account=: must be KEY=VALUE"),
        (SlurmOptions(arguments=("a b",)), "--slurm-arg a b: must be KEY=VALUE"),
    ):
        with pytest.raises(UserError, match=sentence):
            check_options(options)
    check_options(SlurmOptions(time="4", arguments=("account=me", "exclusive")))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "there is no sinfo on this machine; give the command on a login node"),
        (("--dry-run",), "--dry-run measures steps on this machine"),
        (("--devices", "0,1"), "--devices 0,1: a pilot has 1 GPUs, numbered from 0; --slurm-gpus says how many"),
        (("--executor", "local", "--pilots", "2"), "--pilots: an option of --executor slurm; give that too"),
        (("--executor", "local", "--print"), "--print: an option of --executor slurm"),
        (("--pilot",), "--pilot: one of the pilots of --executor slurm"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(without_slurm, stableft, options, sentence):
    code, out, err = stableft(*SUBMIT, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert not (without_slurm / "results").exists()


def test_a_script_is_shown_where_torch_cannot_be_imported(without_slurm):
    """The settings of runs are in the plan; all others are in the pilots' command."""
    code = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
    code += "from stableft.cli.app import main; main()"
    given = ("--save", "last", "--no-cuda-graphs", "--set", "optimizer.lr=1e-3", "--seeds", "1-2", "--print")
    slurm = ("--slurm-time", "1:00:00", "--slurm-arg", "account=a b", "--slurm-arg", "exclusive", "--pilots", "9")
    done = subprocess.run([sys.executable, "-c", code, *SUBMIT, *given, *slurm], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "the plan of the 4 runs that are left is written when they are submitted\n"
    lines = done.stdout.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert {
        "#SBATCH --array=1-4",  # not nine pilots for four runs
        "#SBATCH --requeue",
        "#SBATCH --signal=B:TERM@120",
        "#SBATCH --time=1:00:00",
        '#SBATCH --account="a b"',
        "#SBATCH --exclusive",
        f"#SBATCH --output={without_slurm}/results/sweeps/smoke/slurm/%A_%a.log",
    } < set(lines)
    assert not any("gres" in line for line in lines)
    command = lines[-1]
    assert command.startswith(f"exec {sys.executable} -m stableft sweep smoke --pilot --plan {without_slurm}/results/")
    assert command.endswith(f"--results {without_slurm}/results --devices cpu --save last --no-cuda-graphs")
    assert list(without_slurm.iterdir()) == []


def test_gpus_of_a_pilot_and_an_argument_that_replaces_them():
    def gres(*arguments: str) -> list[str]:
        options = SlurmOptions(gpus=2, arguments=arguments)
        script = write_script(options, "mosbach/table1", 3, Path("/100%"), "key", ["a b"], "title")
        assert "\n#SBATCH --job-name=stableft-mosbach-table1\n" in script
        assert "\n#SBATCH --output=/100%%/sweeps/mosbach/table1/slurm/%A_%a.log\n" in script
        assert script.endswith("\nexec 'a b'\n")
        return [line for line in script.splitlines() if "gres" in line]

    assert gres() == ["#SBATCH --gres=gpu:2"]
    assert gres("gres=gpu:a100:2") == ["#SBATCH --gres=gpu:a100:2"]


@pytest.mark.parametrize("name", ["smoke", "demo", "zhang/table5", "with a rule"])
def test_a_plan_is_read_as_it_was_submitted(name, tmp_path):
    if name == "with a rule":
        margin, score = Margins(mean=1.0), ScoreMeaning(scale=100, range=(0.0, 100.0), better="lower")
        rule = DecideRule(about=["mean", "spread"], looks=[2, 4], margin=margin, share="graph", score=score)
        sweep = make_decided_sweep(rule, seeds=4)
    else:
        sweep = plan_sweep(name)
    content = dump_plan(sweep)
    path = tmp_path / name_plan(content)
    path.write_bytes(content)
    read = read_plan(path)
    for part in ("name", "runs", "start_runs", "rules", "decide"):
        assert getattr(read, part) == getattr(sweep, part)
    assert [run.run_id for run in read.runs] == [run.run_id for run in sweep.runs]
    assert read.sources.paths == sweep.sources.paths
    path.write_bytes(content[:-20])
    with pytest.raises(UserError, match="not a plan that this version"):
        read_plan(path)
    path.unlink()
    with pytest.raises(UserError, match=r"this machine cannot read it \(No such file"):
        read_plan(path)


DECIDED = """
task:
  name: smoke
  train: {folder}/train.jsonl
  validation: {folder}/validation.jsonl
  text: text
  label: label
  labels: [bad, good]
  metrics: [accuracy]
model: {folder}/tiny-bert
recipe: mosbach
seeds: 1-12
set: {{data.max_length: 32, precision: fp32}}
decide: {{about: failures, looks: [4, 8, 12]}}
arms:
  - name: bad
    set: {{optimizer.lr: 1.0e-9}}
  - name: good
"""


def test_runs_that_no_claim_needs_are_left_to_no_pilot(without_slurm, stableft):
    file, results = without_slurm / "claim.yaml", without_slurm / "results"
    file.write_text(DECIDED.format(folder=ROOT / "configs" / "smoke"))
    sweep = plan_sweep(file)
    rows = check_sweep_inputs(sweep.runs, sweep.sources, ())
    logs_folder(results, sweep.name).mkdir(parents=True)

    def store(seeds) -> None:
        for run in sweep.runs:
            if run.config.seeds.init in seeds:
                record = make_scored_record(run, float("nan") if run.arm == "bad" else 0.9)
                data = DATA.model_copy(update={"fingerprint": rows[run.run_id].fingerprint})
                save_record(results, record.model_copy(update={"data": data}))

    store(range(1, 3))
    assert next(describe_pilots(sweep, results)) == "runs: 4 done, 0 crashed, at most 20 left"
    store(range(3, 5))
    assert next(describe_pilots(sweep, results)) == "runs: 8 done, 0 crashed, 0 left"
    code, out, err = stableft("sweep", str(file), *SUBMIT[2:], "--print")
    assert (code, out) == (0, "")
    assert err == "8 runs are done, 0 crashed, 0 left: nothing to submit\n"
    assert "\n0 runs left" in render_estimate(estimate_sweep(sweep, results, Execution(), 1))


def train_quickly(run, results, sources, execution, progress, stop):
    return save_record(results, make_record(run))


def test_a_pilot_leaves_a_run_that_another_holds_and_does_the_others(tmp_path):
    runs = [make_run(seed) for seed in range(3)]
    where = (runs, tmp_path, LocalPaths(), LocalExecutor(["cpu"]), Execution())
    options = {"train": train_quickly, "fingerprint": lambda config, sources: "f" * 64, "leave_after": 0.5}
    with claim_run(run_folder(tmp_path, runs[0].run_id)) as held:
        assert held
        outcome = run_with_workers(*where, **options)
    assert set(outcome.finished) == {run.run_id for run in runs[1:]}
    assert outcome.elsewhere == outcome.unfinished == (runs[0].run_id,)
    outcome = run_with_workers(*where, **options)
    assert (outcome.finished, outcome.elsewhere) == ((runs[0].run_id,), ())


def test_a_job_has_the_cores_that_it_was_granted(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    assert count_cores() == 1
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1000")
    cores = count_cores()
    monkeypatch.delenv("SLURM_CPUS_ON_NODE")
    assert count_cores() == cores >= 1
