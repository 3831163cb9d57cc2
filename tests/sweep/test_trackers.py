"""Trackers: what they are sent, once, by the tools' own clients, read back; and what becomes of one that is down."""

import json
import os
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.command_line import make_scored_record
from support.sweep_records import make_run, save_record

from stableft.config.planned_run import LocalPaths, PlannedRun, RunProgress
from stableft.config.sweep_file import Sweep
from stableft.errors import UserError
from stableft.records.run_record import HISTORY_FILE, EvalPoint, RunRecord, read_record, run_folder
from stableft.sweep import trackers
from stableft.sweep.leases import take_lease
from stableft.sweep.progress import Notice, ProgressReported, RunEnded, RunStarted
from stableft.sweep.tracker_clients import TRACKERS, TrackedRun, check_tracker, describe_place
from stableft.sweep.trackers import (
    MARK_FILE,
    SEND_LEASE,
    by_run_id,
    curves_of_run,
    describe_live_run,
    describe_run_to_tracker,
    find_unsent,
    record_digest,
    send_run,
    send_sweep,
    tracked_display,
)

ARMS, SEEDS = ("a", "b"), (1, 2, 3)


def score_of(run: PlannedRun) -> float:
    return 0.5 + run.config.seeds.init / 20 + (run.arm == "b") / 8


def finish(results: Path, run: PlannedRun, status="finished") -> RunRecord:
    """Writes the record and history of a run: three steps, the last of which diverged."""
    points = [EvalPoint(step=s, epoch=s / 3, train_loss=None, val_loss=0.7, val={"accuracy": 0.6}) for s in (1, 3)]
    record = make_scored_record(run, score_of(run), status)
    record = record.model_copy(update={"evals": tuple(points), "steps": 3})
    save_record(results, record)
    lines = [{"step": n, "loss": 1 / n if n < 3 else "NaN", "lr": 0.1 * n, "grad_norm": 1.0} for n in (1, 2, 3)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (run_folder(results, run.run_id) / HISTORY_FILE).write_text(text)
    return record


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """Returns a sweep of two arms with three seeds each, of which `b` with seed 3 crashed."""
    lengths = {"a": {"epochs": 3}, "b": {"epochs": 4}}
    runs = tuple(make_run(seed, arm, length=lengths[arm]) for arm in ARMS for seed in SEEDS)
    for run in runs:
        finish(tmp_path / "results", run, "crashed" if (run.arm, run.config.seeds.init) == ("b", 3) else "finished")
    return Sweep("of/two", tmp_path / "two.yaml", runs, LocalPaths())


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    return tmp_path / "results"


def test_a_tracker_that_is_not_known_or_not_there_is_a_sentence(monkeypatch):
    with pytest.raises(UserError, match=r"--to 'mlfow': must be one of trackio, .*; did you mean 'mlflow'\?"):
        check_tracker("mlfow", "--to")
    monkeypatch.setattr("stableft.sweep.tracker_clients.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--track mlflow: the package mlflow is not installed; `pip install"):
        check_tracker("mlflow", "--track")


def test_curves_and_scores_of_a_run(sweep, results, monkeypatch):
    record = read_record(results, sweep.runs[0].run_id)
    points = dict(curves_of_run(record, results))
    assert list(points) == [1, 2, 3]
    assert points[1] == {
        "train/loss": 1.0,
        "train/lr": 0.1,
        "train/grad_norm": 1.0,
        "val/loss": 0.7,
        "val/accuracy": 0.6,
    }
    assert points[3]["train/loss"] != points[3]["train/loss"]
    assert {name: points[3][name] for name in ("score", "failed", "last/val/accuracy", "best/val/accuracy")} == {
        "score": 0.55, "failed": 0.0, "last/val/accuracy": 0.55, "best/val/accuracy": 0.55
    }  # fmt: skip
    monkeypatch.setattr(trackers, "CURVE_POINTS", 2)  # every second line, and the ends
    assert [step for step, values in curves_of_run(record, results) if "train/lr" in values] == [1, 2, 3]
    (run_folder(results, record.run_id) / HISTORY_FILE).unlink()
    assert [step for step, _ in curves_of_run(record, results)] == [1, 3]


def test_runs_that_differ_in_their_seed_alone_have_equal_groups_and_settings(sweep, results):
    told = [describe_run_to_tracker(run, read_record(results, run.run_id), "s", results, "0") for run in sweep.runs[:4]]
    assert [run.group for run in told] == ["a rte"] * 3 + ["b rte"]
    assert told[0].config == told[1].config
    assert told[0].config["arm"] == "a"
    assert told[0].config["optimizer.lr"] == 2e-5
    assert [run.seeds["seed"] for run in told] == ["1", "2", "3", "1"]
    assert len({run.key for run in told}) == 4


def test_a_mark_is_of_a_place_an_arm_and_a_record(sweep, results, monkeypatch):
    run = sweep.runs[0]
    shared = [run, PlannedRun("c", "recipe", run.config, "best")]
    assert by_run_id([*shared, run]) == {run.run_id: shared}
    assert find_unsent(results, shared, "s", "mlflow") == shared
    marks = {trackers._mark_key(results, run, "s", "mlflow"): record_digest(results, run.run_id)}
    path = run_folder(results, run.run_id) / MARK_FILE
    path.write_text(json.dumps(marks))
    assert find_unsent(results, shared, "s", "mlflow") == shared[1:]
    assert find_unsent(results, shared, "other", "mlflow") == shared
    assert find_unsent(results, shared, "s", "tensorboard") == shared
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host")
        assert find_unsent(results, shared, "s", "mlflow") == shared
        assert "secret" in describe_place("mlflow", results)
        assert "secret" not in trackers._mark_key(results, run, "s", "mlflow")
    finish(results, run, "crashed")  # another outcome
    assert find_unsent(results, shared, "s", "mlflow") == shared
    path.write_text("no JSON")
    assert find_unsent(results, shared, "s", "mlflow") == shared
    assert find_unsent(results, [make_run(99)], "s", "mlflow") == []


# Group -> seed -> score, NaN of a run without one; of the series of an arm, number of seeds -> SD of their scores.
Sent = dict[str, dict[str, float]]


def read_tensorboard(results: Path) -> Sent:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    found: Sent = {}
    for path in sorted((results / "tensorboard" / "of-two").glob("*/events*")):
        data, at, group, score, seed = path.read_bytes(), 0, "", float("nan"), path.parent.name.split()[3]
        sds: dict[str, float] = {}
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                if value.tag == "_hparams_/session_start_info":
                    start = HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info
                    group = start.group_name
                    assert not group.endswith(" rte") or start.hparams["optimizer.lr"].number_value == 2e-5
                elif value.tag == "score":
                    assert event.step == 3
                    score = value.simple_value
                elif value.tag == "score_sd":
                    sds[str(event.step)] = value.simple_value
        found.setdefault(group, {}).update(sds or {seed: score})
    return found


def read_mlflow(results: Path) -> Sent:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results.resolve() / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "of/two"]
    found: Sent = {}
    for run in client.search_runs([experiment.experiment_id]):
        if "arm" in run.data.params:
            group, score = run.data.tags["arm"], run.data.metrics.get("score", float("nan"))
            found.setdefault(group, {})[run.data.params["seed"]] = score
            assert run.info.status == ("FAILED" if score != score else "FINISHED")
            assert [point.step for point in client.get_metric_history(run.info.run_id, "train/lr")] == [1, 2, 3]
        for point in client.get_metric_history(run.info.run_id, "score_sd"):
            found.setdefault(run.data.tags["arm"], {})[str(point.step)] = point.value
    return found


def read_trackio(results: Path) -> Sent:
    import trackio

    found: Sent = {}
    for run in trackio.Api().runs("of-two"):
        if run.config["_Group"] != "live":
            logs = trackio.SQLiteStorage.get_logs("of-two", run.name, run_id=run.id)
            if "score_sd" in logs[-1]:
                found[run.config["_Group"]] = {str(log["step"]): log["score_sd"] for log in logs if "score_sd" in log}
                continue
            assert [log["step"] for log in logs] == [1, 2, 3]
            found.setdefault(run.config["_Group"], {})[run.config["seed"]] = logs[-1].get("score", float("nan"))
    return found


def read_wandb(results: Path) -> Sent:
    from wandb.proto.wandb_internal_pb2 import Record

    def records(data: bytes) -> Iterator[Record]:
        at, whole = 7, b""  # LevelDB's log format, behind a header of seven bytes
        while at + 7 <= len(data):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            _, length, kind = struct.unpack("<IHB", data[at : at + 7])
            whole += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):
                if whole:
                    yield Record.FromString(whole)
                whole = b""

    found: Sent = {}
    for path in (results / "wandb").glob("offline-run-*/*.wandb"):
        group, seed, score = "", "", float("nan")
        for record in records(path.read_bytes()):
            if record.WhichOneof("record_type") == "run":
                group = record.run.run_group
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                seed = config.get("seed", "")
            for item in record.history.item:
                if (item.key or "/".join(item.nested_key)) == "score":
                    score = json.loads(item.value_json)
        if group != "live":
            found.setdefault(group, {})[seed] = score
    return found


READERS = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "trackio": read_trackio, "wandb": read_wandb}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "tool",
    [
        "tensorboard",
        *(
            pytest.param(name, marks=[pytest.mark.nightly, pytest.mark.cluster])
            for name in ("mlflow", "trackio", "wandb")
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the tools
def test_a_sweep_and_then_the_command_send_every_run_once_and_groups_have_mean_and_sd(tool, sweep, results):
    pytest.importorskip({"tensorboard": "tensorboardX"}.get(tool, tool))
    first, *others = sweep.runs
    started, seen = Sweep(sweep.name, sweep.path, (first,), sweep.sources), []
    digests = {run.run_id: record_digest(results, run.run_id) for run in sweep.runs}
    with tracked_display(tool, started, results, seen.append) as show:
        show(RunStarted("cpu", first))
        show(ProgressReported("cpu", RunProgress(1, 3, 0.5, None)))
        show(RunEnded("cpu", first, "done", read_record(results, first.run_id)))
    assert [event for event in seen if isinstance(event, Notice)] == []
    assert (run_folder(results, first.run_id) / MARK_FILE).exists()
    assert not (run_folder(results, others[0].run_id) / MARK_FILE).exists()
    assert send_sweep(tool, sweep, results) == f"sent 5 runs to {tool}, which had 1 already"
    assert send_sweep(tool, sweep, results) == f"{tool} has all 6 runs already"
    sent = READERS[tool](results)
    for arm in ARMS:
        scores = [score for score in sent[f"{arm} rte"].values() if score == score]
        expected = [score_of(run) for run in sweep.runs if run.arm == arm][: len(scores)]
        assert len(scores) == (3 if arm == "a" else 2)
        assert statistics.mean(scores) == pytest.approx(statistics.mean(expected), abs=1e-6)
        assert statistics.stdev(scores) == pytest.approx(statistics.stdev(expected), abs=1e-6)
    assert {arm: set(seeds) for arm, seeds in sent.items() if arm.endswith(" rte")} == {
        "a rte": {"1", "2", "3"},
        "b rte": {"1", "2", "3"},
    }
    sds = {arm: values for arm, values in sent.items() if arm.endswith(" over its seeds")}
    two, three = pytest.approx(0.05 / 2**0.5, abs=1e-6), pytest.approx(0.05, abs=1e-6)
    # The third run of `b` has crashed and has no score. W&B has an SD itself.
    expected = {"a rte over its seeds": {"2": two, "3": three}, "b rte over its seeds": {"2": two, "3": two}}
    assert sds == ({} if tool == "wandb" else expected)
    later = replace(sweep, runs=sweep.runs[1:3])  # as after pilots, which leave mean and SD to this command
    assert send_sweep(tool, later, results) == (
        f"{tool} has all 2 runs already"
        if tool == "wandb"
        else f"sent mean and SD of the arms to {tool}, which had all 2 runs already"
    )
    (run_folder(results, first.run_id) / MARK_FILE).unlink()  # as after a kill between sending and marking
    assert send_sweep(tool, sweep, results) == f"sent 1 runs to {tool}, which had 5 already"
    if tool != "wandb":  # offline, it has one file more, which `wandb sync` sends to the same run
        assert {group: len(seeds) for group, seeds in READERS[tool](results).items() if group.endswith(" rte")} == {
            "a rte": 3,
            "b rte": 3,
        }
    assert {run.run_id: record_digest(results, run.run_id) for run in sweep.runs} == digests


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_a_tracker_that_is_down_is_told_once_and_stops_nothing(sweep, results):
    pytest.importorskip("tensorboardX")
    (results / "tensorboard").write_text("not a folder")
    seen = []
    with tracked_display("tensorboard", sweep, results, seen.append) as show:
        for run in sweep.runs:
            show(RunEnded("cpu", run, "done", read_record(results, run.run_id)))
    down, unsent = (event.text for event in seen if isinstance(event, Notice))
    assert down.startswith("tensorboard: ")
    assert down.endswith("; the runs go on, and their files are kept")
    assert unsent == f"6 runs not sent; `stableft track {sweep.path} --to tensorboard` sends them"
    with pytest.raises(UserError, match=r"tensorboard: .*; sent 0 runs to tensorboard, and 6 are left"):
        send_sweep("tensorboard", sweep, results)
    (results / "tensorboard").unlink()
    assert send_sweep("tensorboard", sweep, results) == "sent 6 runs to tensorboard"


def test_pilots_that_begin_in_the_same_second_have_live_runs_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "now")
    runs = []
    for host, pid in (("a", 1), ("a", 2), ("b", 1)):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        runs.append(describe_live_run("s", tmp_path))
    assert [run.name for run in runs] == ["live now a 1", "live now a 2", "live now b 1"]
    assert len({run.key for run in runs}) == 3


MLFLOW_PILOT = """
import sys
from pathlib import Path
from stableft.sweep.tracker_clients import TrackedRun, log_to_mlflow
import mlflow
results, me = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for project in ("one", "two", "three"):
    with log_to_mlflow(TrackedRun(me, me, "live", project, results)) as log:
        log(1, {"loss": 0.5})
"""


@pytest.mark.nightly
@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_pilots_that_begin_together_make_one_file_and_experiment_of_mlflow(results):
    pytest.importorskip("mlflow")
    results.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pilots = [
        subprocess.Popen(
            [sys.executable, "-c", MLFLOW_PILOT, results, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for name in "ab"
    ]  # fmt: skip
    for pilot in pilots:
        assert pilot.stdout
        assert pilot.stdout.readline() == "ready\n"
    for pilot in pilots:
        pilot.communicate("go\n", timeout=120)
    assert [pilot.returncode for pilot in pilots] == [0, 0]
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results.resolve() / 'mlflow.db'}")
    for name in ("one", "two", "three"):
        (experiment,) = [one for one in client.search_experiments() if one.name == name]
        assert {run.info.run_name for run in client.search_runs([experiment.experiment_id])} == {"a", "b"}


def test_without_a_tracker_the_display_is_as_it_was(sweep, results):
    seen = []
    with tracked_display(None, sweep, results, seen.append) as show:
        assert show == seen.append


def test_a_sweep_without_records_has_nothing_to_send(sweep, tmp_path):
    with pytest.raises(UserError, match=r"two\.yaml: .* has no records of its 6 runs"):
        send_sweep("tensorboard", sweep, tmp_path / "nowhere")


def send_slowly(path: Path) -> None:
    """Makes the sending of a run take a while, and note in a file when it begins and ends."""

    @contextmanager
    def open_run(run: TrackedRun):
        with open(path, "a") as file:
            file.write("begin\n")
        yield lambda step, values: None
        time.sleep(0.3)
        with open(path, "a") as file:
            file.write("end\n")

    TRACKERS["tensorboard"] = replace(TRACKERS["tensorboard"], open_run=open_run)


SENDER = """
import sys
from pathlib import Path
from sweep.test_trackers import send_slowly
from stableft.sweep.trackers import send_run
from support.sweep_records import make_run
folder = Path(sys.argv[1])
send_slowly(folder / "log")
run = make_run(1, "a", length={"epochs": 3})
print("ready", flush=True)
sys.stdin.readline()
print(send_run("tensorboard", [run], sys.argv[2], folder / "results"), flush=True)
"""


@pytest.mark.parametrize("projects", [("one", "one"), ("one", "two")])
def test_processes_that_send_the_same_run_take_turns(sweep, tmp_path, projects):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    senders = [
        subprocess.Popen(
            [sys.executable, "-c", SENDER, tmp_path, project],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for project in projects
    ]  # fmt: skip
    for sender in senders:
        assert sender.stdout
        assert sender.stdout.readline() == "ready\n"
    for sender in senders:
        assert sender.stdin
        sender.stdin.write("go\n")
        sender.stdin.flush()
    said = sorted(sender.communicate(timeout=60)[0] for sender in senders)
    times = len(set(projects))
    assert said == ["False\n", "True\n"] if times == 1 else ["True\n", "True\n"]
    assert (tmp_path / "log").read_text() == "begin\nend\n" * times
    folder = run_folder(tmp_path / "results", sweep.runs[0].run_id)
    assert not (folder / SEND_LEASE).exists()
    assert len(json.loads((folder / MARK_FILE).read_text())) == times


def test_a_run_that_another_process_sends_for_too_long_is_unsent(sweep, results, monkeypatch):
    monkeypatch.setattr(trackers, "SENDER_SECONDS", 0.1)
    folder = run_folder(results, sweep.runs[0].run_id)
    lease = take_lease(folder / SEND_LEASE)
    assert lease
    with pytest.raises(TimeoutError, match="another process has not finished"):
        send_run("tensorboard", sweep.runs[:1], "s", results)
    lease.release()
    assert not (folder / MARK_FILE).exists()


def test_a_pilot_leaves_earlier_runs_to_others(sweep, results):
    pytest.importorskip("tensorboardX")
    with tracked_display("tensorboard", sweep, results, lambda event: None, send_earlier=False):
        pass
    assert not list(results.glob(f"runs/*/{MARK_FILE}"))


def test_an_interrupted_sweep_waits_for_its_tracker_only_so_long(sweep, results, monkeypatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(trackers, "INTERRUPTED_SECONDS", 0.5)
    lease = take_lease(run_folder(results, sweep.runs[0].run_id) / SEND_LEASE)  # so that sending it takes long
    assert lease
    seen, began = [], time.monotonic()
    with tracked_display("tensorboard", sweep, results, seen.append) as show:
        show(Notice("Stopping", interrupted=True))
    assert time.monotonic() - began < trackers.SENDER_SECONDS / 2
    lease.release()
    assert [event.text for event in seen] == [
        "Stopping",
        f"6 runs not sent; `stableft track {sweep.path} --to tensorboard` sends them",
    ]
