"""Pilots without a cluster: time limits, the batch script, what is refused, the plan's file, runs left to others."""

import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.decided_sweeps import DATA, make_decided_sweep, make_scored_record
from support.paths import ROOT
from support.sweep_records import make_record, make_run, save_record
from support.sweep_stages import finish_others_too, make_sweep, train_quickly

from stableft.cli.slurm_commands import REPORT_LEASE, describe_pilots, run_as_pilot
from stableft.config.command_config import ScoreMeaning
from stableft.config.decide_rule import DecideRule, Margins
from stableft.config.planned_run import Execution, LocalPaths
from stableft.config.run_config import StartFrom
from stableft.config.sweep_keys import EarlyStoppingRule
from stableft.errors import UserError
from stableft.python_api import plan_sweep
from stableft.records.run_record import RECORD_FILE, run_folder
from stableft.sweep.claims import claim_run
from stableft.sweep.estimate import estimate_sweep, render_estimate
from stableft.sweep.leases import take_lease
from stableft.sweep.local_workers import LocalExecutor, count_cores
from stableft.sweep.pilot import Pilot
from stableft.sweep.preflight import check_sweep_inputs
from stableft.sweep.progress import RunEnded, RunStarted, closing_line
from stableft.sweep.run_sweep import run_planned_sweep
from stableft.sweep.slurm import SlurmOptions, check_options, logs_folder, parse_time_limit, write_script
from stableft.sweep.submitted_plan import dump_plan, name_plan, read_plan
from stableft.sweep.workers import run_with_workers

SUBMIT = ("sweep", "smoke", "--executor", "slurm", "--devices", "cpu")


@pytest.fixture
def without_slurm(workplace, monkeypatch):
    monkeypatch.setenv("PATH", str(workplace))
    return workplace


@pytest.fixture
def programs(workplace, monkeypatch):
    """Puts programs of Slurm into the path, which print a file and keep what they were given.

    Returns their folder.
    """
    folder = workplace / "bin"
    folder.mkdir()
    for name in ("sinfo", "squeue", "sbatch", "scontrol", "scancel"):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexport -p > {path}.env\necho "$@" >> {path}.given\n/bin/cat {path}.out\n')
        path.chmod(0o755)
        (folder / f"{name}.out").touch()
    monkeypatch.setenv("PATH", str(folder))
    host = socket.gethostname().partition(".")[0]
    partitions = ("main*|1:00:00|1:00:00", "short|3:00|10:00", "long|n/a|infinite")
    (folder / "sinfo.out").write_text("".join(f"{partition}|{host}\n" for partition in partitions))
    (folder / "sbatch.out").write_text("7\n")
    return folder


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
        (SlurmOptions(arguments=("time-min=1",)), "--slurm-arg time-min=1: use --slurm-time"),
        (SlurmOptions(arguments=("partit=x",)), "--slurm-arg partit=x: use --slurm-partition"),
        (SlurmOptions(arguments=("--array=1-9",)), "the pilots' script sets array itself"),
        (SlurmOptions(arguments=("sig=INT",)), "--slurm-arg sig=INT: the pilots' script sets signal itself"),
        (SlurmOptions(arguments=("account=",)), "--slurm-arg account=: must be KEY=VALUE"),
        (SlurmOptions(arguments=("a b",)), "--slurm-arg a b: must be KEY=VALUE"),
    ):
        with pytest.raises(UserError, match=sentence):
            check_options(options)
    check_options(SlurmOptions(time="4", arguments=("account=me", "exclusive")))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--devices", "cuda:0"), "--devices 'cuda:0' must be auto, cpu, or GPU numbers such as 0,1"),
        (("--devices", "gpu"), "--devices 'gpu' must be auto, cpu, or GPU numbers"),
        (("--devices", "0,"), "--devices '0,' must be auto, cpu, or GPU numbers"),
        (("--devices", "0,0"), "--devices '0,0' names a GPU twice"),
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
        script = write_script(options, "mosbach/table1", 3, Path("/100%"), "key", "'a b'", "title")
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


def test_variables_of_sbatch_are_defaults_that_are_checked_and_told(programs, stableft, monkeypatch):
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    code, out, err = stableft(*SUBMIT)
    assert (code, out) == (2, "")
    assert err.startswith("stableft: SBATCH_TIMELIMIT=1: must be at least 240 s")
    monkeypatch.setenv("SBATCH_PARTITION", "nope")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "20")
    assert "SBATCH_PARTITION=nope: this cluster has main, short, long" in stableft(*SUBMIT)[2]
    err = stableft(*SUBMIT, "--slurm-partition", "short")[2]
    assert "SBATCH_TIMELIMIT=20: partition short allows 10 minutes at most" in err
    monkeypatch.setenv("SBATCH_PARTITION", "long")
    for name in ("SBATCH_WAIT", "SBATCH_ERROR", "SBATCH_NO_REQUEUE", "SQUEUE_STATES", "SCANCEL_INTERACTIVE"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    code, out, err = stableft(*SUBMIT, "--seeds", "1-2", "--slurm-time", "10")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "SBATCH_PARTITION=long: from the environment"
    assert "submitted 4 pilots as job 7" in out
    sbatch, squeue = ((programs / f"{name}.env").read_text() for name in ("sbatch", "squeue"))
    assert "SBATCH_ACCOUNT='mine'" in sbatch
    hidden = ("PARTITION", "TIMELIMIT", "WAIT", "ERROR", "NO_REQUEUE")
    assert not [name for name in hidden if f" SBATCH_{name}=" in sbatch]
    assert " SQUEUE_STATES=" not in squeue
    (programs / "sbatch.out").write_text("slurm-wlm 22.05.8\n")
    code, _, err = stableft(*SUBMIT, "--slurm-arg", "version")
    assert (code, err) == (2, "stableft: sbatch: it submitted no job, but printed 'slurm-wlm 22.05.8'\n")


def test_each_of_several_partitions_is_checked(programs, stableft):
    def refusal(partitions: str, *options: str) -> str:
        code, out, err = stableft(*SUBMIT, "--print", "--slurm-partition", partitions, *options)
        assert (code, out == "") in ((0, False), (2, True))
        return err

    unknown = "--slurm-partition main,lon: no lon: this cluster has main, short, long; did you mean 'long'?"
    assert unknown in refusal("main,lon")
    assert "the time limit of partition short, which holds without --slurm-time" in refusal("main,short")
    assert "--slurm-time 30: partition short allows 10 minutes at most" in refusal("long,short", "--slurm-time", "30")
    assert "--slurm-time 2:00:00: partition main allows 60 minutes" in refusal("long,main", "--slurm-time", "2:00:00")
    assert "stableft:" not in refusal("long,main", "--slurm-time", "30")
    assert "stableft:" not in refusal("long,main")


def test_a_results_folder_is_judged_by_where_it_is(programs, stableft, monkeypatch):
    scratch = programs.parent / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("stableft.sweep.slurm.LOCAL_FOLDERS", (str(scratch),))
    monkeypatch.delenv("TMPDIR", raising=False)
    (programs / "sinfo.out").write_text("main*|1:00:00|1:00:00|elsewhere\n")
    (programs.parent / "results").symlink_to(scratch)
    code, out, err = stableft(*SUBMIT)
    assert (code, out) == (2, "")
    assert "--results results: pilots on elsewhere cannot see this folder: it is for temporary files" in err


@pytest.mark.parametrize("first", ["results", "link/results", "results/", "{}/results", "bin/../results"])
def test_a_results_folder_by_any_of_its_paths_has_one_set_of_pilots(programs, stableft, monkeypatch, first):
    """Each is submitted by one path, and asked for, and cancelled, by all the others."""
    folder = programs.parent
    (folder / "results").mkdir()
    (folder / "link").symlink_to(folder, target_is_directory=True)
    submit = (*SUBMIT, "--seeds", "1-2", "--pilots", "2", "--results")
    code, script, _ = stableft(*submit, first.format(folder), "--print")
    assert code == 0
    comment = script.partition("--comment=")[2].partition("\n")[0].strip('"')
    (programs / "squeue.out").write_text("".join(f"5|{task}|RUNNING|node|None|{comment}\n" for task in (1, 2)))
    for other in ("results", "link/results", "results/", f"{folder}/results", "./bin/../results"):
        code, out, _ = stableft(*submit, other)
        assert (code, out.splitlines()) == (
            0,
            ["pilots: 2 running, 0 queued (Slurm job 5)", "0 runs are done, 0 crashed, 4 left: nothing to submit"],
        )
        assert stableft("sweep", "smoke", "--stop", "--results", other)[1].startswith("pilots: 2 running")
    older = comment.replace(str(folder.resolve()), f"{folder}/link")  # which wrote the path as it was given
    assert older != comment
    (programs / "squeue.out").write_text(f"5|1|RUNNING|node|None|{older}\n5|2|RUNNING|node|None|{comment}x\n")
    assert stableft(*submit, "results")[1].splitlines()[0] == "pilots: 1 running, 0 queued (Slurm job 5)"


def test_pilots_that_are_ending_count_for_nothing(programs, stableft):
    submit = (*SUBMIT, "--seeds", "1-2")
    script = stableft(*submit, "--print")[1]
    key = script.partition('--comment="')[2].split()[0]
    results = programs.parent / "results"
    states = ["RUNNING", "COMPLETING", "COMPLETING", "PENDING"]
    queue = [f"5|{task}|{state}|node|None|{key} {results}\n" for task, state in enumerate(states)]
    (programs / "squeue.out").write_text("".join(queue))
    code, out, _ = stableft(*submit)
    assert code == 0
    assert out.splitlines()[0] == "pilots: 1 running, 1 queued, 2 ending (Slurm job 5)"
    assert "submitted 2 pilots as job 7 for the 4 runs that are left" in out


def test_a_pilot_asks_for_its_own_task_and_counts_the_starts_that_got_nowhere(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_JOB_ID", "5")  # as of the last task of an array
    (programs / "squeue.out").write_text("RUNNING\n")
    run, said = make_run(1), []

    def start(*events) -> Pilot:
        pilot = Pilot.of_this_job(tmp_path, "smoke")
        for event in events:
            pilot.follow(event)
        pilot.requeue(said.append)
        return pilot

    waits = RunEnded("cpu", run, "claimed_elsewhere")
    assert [start(waits).state.idle_requeues for _ in range(4)] == [0] * 4  # which no longer limit would help
    assert {*(programs / "scontrol.given").read_text().splitlines()} == {"requeue 5_3"}
    assert {*(programs / "squeue.given").read_text().splitlines()} == {"-h -j 5_3 -o %T"}
    assert said == ["This task is requeued and goes on from the checkpoints."] * 4
    begun, stopped = RunStarted("cpu", run), RunEnded("cpu", run, "interrupted")
    assert [start(waits, begun, stopped).state.idle_requeues for _ in range(2)] == [1, 2]
    assert start(waits).state.ended == "requeued"
    last = start(begun, stopped).state
    assert (last.failed, last.ended) == (
        True,
        "no new checkpoint in 3 starts: it is not requeued; a longer --slurm-time may help",
    )


def test_plans_and_states_of_pilots_are_no_report(programs, stableft):
    for name in ("smoke", "mosbach/table1"):
        logs = logs_folder(Path("results"), name)
        (logs / "pilots").mkdir(parents=True)
        (logs / "plan-0.json.gz").write_text("plan")
        (logs.parent / "report.json").write_text("{}")
    Path("results/runs").mkdir()

    def files() -> set[str]:
        return {str(path.relative_to("results/sweeps")) for path in Path("results/sweeps").rglob("*.*")}

    (programs / "squeue.out").write_text(f"5|1|PENDING||None|key {Path('results').absolute()}\n")
    last = stableft("clean", "smoke", "--all", "--yes")[1].splitlines()[-1]
    assert last == "left alone, because pilots may need it: results/sweeps/smoke/slurm (1 are queued or run)"
    plans = {"smoke/slurm/plan-0.json.gz", "mosbach/table1/slurm/plan-0.json.gz"}
    assert files() == {*plans, "mosbach/table1/report.json"}
    (programs / "squeue").rename(programs / "gone")
    assert "cannot be told here: --executor slurm: there is no squeue" in stableft("clean", "--all", "--yes")[1]
    assert files() == plans
    (programs / "gone").rename(programs / "squeue")
    (programs / "squeue.out").write_text("")
    assert stableft("clean", "--all", "--yes")[1].splitlines()[-1] == "removed 8 B"
    assert not Path("results/sweeps").exists()


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


def test_the_last_pilot_sees_that_all_runs_are_settled_and_writes_the_report(tmp_path, monkeypatch, capsys):
    sweep = make_sweep([make_run(seed) for seed in range(3)])
    where = (sweep, tmp_path, LocalExecutor(["cpu"]), Execution())
    fingerprint = {"fingerprint": lambda config, sources: "f" * 64}
    first, *others = (run.run_id for run in sweep.runs)
    with claim_run(run_folder(tmp_path, others[1])) as held:  # and not recorded in the end
        assert held
        unlike = {"train": train_quickly, "leave_after": 0.5, **fingerprint}
        outcome = run_planned_sweep(*where, **unlike)
    assert (outcome.unfinished, outcome.elsewhere, outcome.by_others) == ((others[1],), (others[1],), ())
    for run_id in (first, others[0]):
        (run_folder(tmp_path, run_id) / RECORD_FILE).unlink()
    outcome = run_planned_sweep(*where, train=finish_others_too, leave_after=0.5, **fingerprint)
    assert (outcome.finished, outcome.unfinished, outcome.by_others) == ((first,), (), tuple(others))
    assert closing_line(outcome) == "Ended: 1 of 3 runs done, 2 ended by other processes"

    reported = []
    monkeypatch.setattr("stableft.cli.slurm_commands.print_report", lambda *given: reported.append(given))
    monkeypatch.setattr("signal.signal", lambda *given: None)
    as_pilot = (sweep, tmp_path, False, lambda **options: outcome)
    assert run_as_pilot(*as_pilot) == 0
    assert run_as_pilot(*as_pilot[:3], lambda **options: replace(outcome, unfinished=("x",), elsewhere=("x",))) == 0
    assert run_as_pilot(*as_pilot[:3], lambda **options: replace(outcome, unfinished=("x",), blocked=("x",))) == 0
    assert reported == [(sweep, tmp_path)] * 2
    assert not logs_folder(tmp_path, sweep.name).exists()  # this was no pilot of Slurm
    lease = take_lease(tmp_path / "sweeps" / sweep.name / REPORT_LEASE)
    assert lease
    assert run_as_pilot(*as_pilot) == 0
    lease.release()
    assert len(reported) == 2
    assert "Another pilot writes the report" in capsys.readouterr().out


def test_status_counts_as_left_what_would_be_submitted(tmp_path):
    rule = EarlyStoppingRule(after=0.3, lowest=0.5)
    parent = make_run(9, "parent")
    start = StartFrom(run=parent.run_id, checkpoint="last")
    runs = (make_run(seed, "child") for seed in (5, 6))
    runs = (make_run(seed, "child") for seed in (5, 6))
    children = [replace(run, config=run.config.model_copy(update={"start_from": start})) for run in runs]
    sweep = make_sweep([make_run(seed) for seed in range(4)], rule)
    sweep = replace(sweep, runs=(*sweep.runs, *children), start_runs=(parent,))
    logs_folder(tmp_path, sweep.name).mkdir(parents=True)

    def line() -> str:
        return next(describe_pilots(sweep, tmp_path))

    assert line() == "runs: 0 done, 0 crashed, 7 left"
    for run in sweep.runs[:2]:
        save_record(tmp_path, make_record(run))
    for run in sweep.runs[2:4]:
        save_record(tmp_path, make_record(run).model_copy(update={"status": "stopped", "last": None, "best": None}))
    assert line() == "runs: 2 done, 0 crashed, 2 stopped early as hopeless, 3 left"
    save_record(tmp_path, make_record(parent, "crashed"))
    assert line() == "runs: 2 done, 0 crashed, 2 stopped early as hopeless, 2 with nothing to start from, 0 left"


def test_a_job_has_the_cores_that_it_was_granted(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    assert count_cores() == 1
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1000")
    cores = count_cores()
    monkeypatch.delenv("SLURM_CPUS_ON_NODE")
    assert count_cores() == cores >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="installs with apt-get")
def test_slurm_is_installed_unless_every_program_is_there(tmp_path):
    """No function is called as a program that scripts of packages may call."""
    bash = shutil.which("bash")
    for name in ("id", "env", "timeout", "bash"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")

    def add(name: str, script: str = "") -> None:
        (tmp_path / name).write_text(f"#!{bash}\n{script}\n")
        (tmp_path / name).chmod(0o755)

    def install() -> list[str]:
        command = [tmp_path / "bash", ROOT / "scripts" / "install-slurm"]
        subprocess.run(command, env={"PATH": str(tmp_path)}, check=True)
        given = tmp_path / "given"
        return given.read_text().splitlines() if given.exists() else []

    add("sudo", 'shift; exec "$@"')
    add("apt-get", f'{{ echo "$@"; type -t install; }} >> {tmp_path}/given; exit 0')
    for name in ("slurmctld", "sbatch", "squeue", "scontrol", "scancel"):
        add(name)
    given = install()
    assert [line.endswith(" slurm-wlm munge") for line in given] == [True]
    add("slurmd")
    add("munged")
    assert install() == given
