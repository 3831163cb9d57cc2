"""Real processes: workers that die, sweeps that share a folder, signals. The runs are stand-ins without torch."""

import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from pathlib import Path

import pytest
from support.sweep_records import make_record, make_run, save_record
from support.worker_logs import log_event, read_events, wait_until

from stableft.config.planned_run import Execution, LocalPaths, RunInterrupted, RunProgress
from stableft.errors import UserError
from stableft.records.run_record import CHECKPOINT_FILE, run_folder
from stableft.sweep import worker_process
from stableft.sweep.claims import claim_run
from stableft.sweep.devices import resolve_devices
from stableft.sweep.local_workers import LocalExecutor
from stableft.sweep.progress import Notice, ProgressReported, RunEnded, RunStarted, SweepStarted
from stableft.sweep.state import CRASH_FILE, read_sweep_state
from stableft.sweep.worker_process import can_compute
from stableft.sweep.workers import run_with_workers

pytestmark = pytest.mark.timeout(60)


def watch_what_is_freed(results, run) -> None:
    """Leaves an object that holds itself, and logs whether it is there still when the GPU's cache is emptied."""
    import torch

    class Model:
        pass

    gc.disable()  # no collection but the worker's own
    model = Model()
    model.forward = lambda: model
    left = weakref.ref(model)
    torch.cuda.empty_cache = lambda: log_event(results, "freed" if left() is None else "held", run)


def fill_gpu(results, run, execution) -> None:
    """Takes 1600ths of the GPU's memory until there is no more, and keeps them until the neighbour has done so too."""
    import torch

    from stableft.training import setup as training_setup

    training_setup.SHARED_MEMORY = 0.04  # in this worker process: other tests may use the GPU now
    device, parts = training_setup.prepare_device(execution), []
    size = torch.cuda.get_device_properties(device).total_memory // 1600
    with contextlib.suppress(torch.OutOfMemoryError):
        while True:
            parts.append(torch.empty(size, dtype=torch.uint8, device=device))
            log_event(results, "part", run)
    log_event(results, "full", run)
    wait_until(lambda: len(read_events(results, "full")) == 2)


def train_stand_in(run, results, sources, execution, progress, stop):
    """Does what the arm's name says, after logging that the run began."""
    log_event(results, "begin", run)
    checkpoint = run_folder(results, run.run_id) / CHECKPOINT_FILE
    match run.arm:
        case "raise":
            raise ValueError("the bug")
        case "cuda":
            worker_process.can_compute = lambda device: False  # in this worker process, until its end
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        case "said":
            raise ValueError("no such column: cuda")
        case "holds itself":
            watch_what_is_freed(results, run)
        case "fills the GPU":
            fill_gpu(results, run, execution)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "mistake":
            raise UserError("the task has no such column")
        case "deaf":
            time.sleep(60)
        case "meet":  # four workers, so both sweeps, are at it at the same time
            wait_until(lambda: len({pid for _, pid in read_events(results, "begin")}) == 4)
        case "finishes all":  # as other processes would
            for seed in range(1, 3):
                save_record(results, make_record(make_run(seed, run.arm)))
        case "damages the next":
            folder = run_folder(results, make_run(1, "short").run_id)
            folder.mkdir(parents=True)
            (folder / "record.json").write_text("{")
        case "twice" if len(read_events(results, "begin")) <= 2:
            checkpoint.write_bytes(b"")
            os.kill(os.getpid(), signal.SIGKILL)
    steps = 1000 if run.arm == "long" else 5
    for step in range(steps):
        if stop():
            checkpoint.write_bytes(b"")
            raise RunInterrupted
        progress(RunProgress(step, steps, 0.5, 0.25))
        time.sleep(0.02)
    checkpoint.unlink(missing_ok=True)
    log_event(results, "end", run)
    threads = f"{execution.device}/{execution.threads}"
    return save_record(results, make_record(run).model_copy(update={"reason": threads}))


def sweep(results: Path, runs, jobs=1, devices=("cpu",), **options):
    events = []
    outcome = run_with_workers(
        runs,
        results,
        LocalPaths(),
        LocalExecutor(devices, jobs),
        Execution(),
        display=options.pop("display", events.append),
        train=train_stand_in,
        fingerprint=lambda config, sources: "f" * 64,
        **options,
    )
    return outcome, events


def main() -> None:
    """What the tests start in a process of its own: a sweep over `results` of so many runs of one arm."""
    results, arm, count, jobs = sys.argv[1:]
    outcome, events = sweep(Path(results), [make_run(seed, arm) for seed in range(int(count))], int(jobs))
    assert outcome.interrupted == any(isinstance(event, Notice) and event.interrupted for event in events)
    print(len(outcome.finished), len(outcome.crashed), len(outcome.resumable), outcome.interrupted, flush=True)


def start_process(results: Path, arm: str, count: int, jobs: int) -> subprocess.Popen:
    code = "import test_workers; test_workers.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, results, arm, str(count), str(jobs)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_sweep_does_every_run_once_in_workers_that_live_on(tmp_path):
    runs = [make_run(seed, "short") for seed in range(6)]
    outcome, events = sweep(tmp_path, [*runs, make_run(0, "another arm")], jobs=2)
    assert set(outcome.finished) == {run.run_id for run in runs}
    assert (outcome.crashed, outcome.unfinished, outcome.interrupted) == ((), (), False)
    begun = read_events(tmp_path, "begin")
    assert Counter(run_id for run_id, _ in begun) == Counter(run.run_id for run in runs)
    assert len({pid for _, pid in begun}) == 2
    assert not any(is_running(pid) for _, pid in begun)
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert read_sweep_state(tmp_path, runs).finished[0].reason == f"cpu/{threads}"
    assert isinstance(events[0], SweepStarted)
    assert sum(isinstance(event, RunStarted) for event in events) == 6
    assert sum(isinstance(event, ProgressReported) for event in events) >= 6
    again, events = sweep(tmp_path, runs, jobs=2)
    assert set(again.finished_before) == {run.run_id for run in runs}
    assert len(read_events(tmp_path, "begin")) == 6


@pytest.mark.faults
def test_crashes_are_recorded_and_the_sweep_goes_on(tmp_path):
    arms = ["raise", "exit", "short", "kill", "cuda", "short"]
    runs = [make_run(seed, arm) for seed, arm in enumerate(arms)]
    outcome, _ = sweep(tmp_path, runs)
    assert outcome.finished == (runs[2].run_id, runs[5].run_id)
    assert outcome.crashed == tuple(runs[n].run_id for n in (0, 1, 3, 4))
    reasons = [record.reason for record in read_sweep_state(tmp_path, runs).crashed]
    assert reasons == [
        "ValueError: the bug",
        "the worker process died with exit code 3, twice",
        "the worker process died with signal 9 (Killed), twice",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
    ]
    assert f"in {train_stand_in.__name__}" in (run_folder(tmp_path, runs[0].run_id) / CRASH_FILE).read_text()
    workers = [pid for _, pid in read_events(tmp_path, "begin")]
    assert workers[0] == workers[1]  # an exception leaves the worker alive
    assert workers[3] == workers[4]
    assert len(set(workers)) == 6  # a death, and an error of CUDA, do not
    again, _ = sweep(tmp_path, runs)
    assert (again.crashed, again.finished) == (outcome.crashed, ())
    assert len(read_events(tmp_path, "begin")) == 8


@pytest.mark.faults
def test_a_device_that_is_lost_does_not_crash_the_whole_queue(tmp_path):
    runs = [make_run(0, "cuda"), make_run(1, "short"), *(make_run(seed, "cuda") for seed in range(2, 6))]
    outcome, events = sweep(tmp_path, runs)
    assert outcome.crashed == tuple(runs[n].run_id for n in (0, 2, 3))  # in a row: the run between was done
    assert outcome.unfinished == tuple(run.run_id for run in runs[4:])
    (notice,) = (event.text for event in events if isinstance(event, Notice))
    assert re.match("cpu .* 2 device errors .*no more runs", notice)


def test_an_error_that_only_names_cuda_loses_no_device(tmp_path):
    runs = [make_run(seed, "said") for seed in range(3)]
    outcome, events = sweep(tmp_path, runs)
    assert (len(outcome.crashed), outcome.unfinished) == (3, ())
    assert not any(isinstance(event, Notice) for event in events)
    assert len({pid for _, pid in read_events(tmp_path, "begin")}) == 1


def test_a_device_that_computes_and_one_that_does_not(monkeypatch):
    torch = pytest.importorskip("torch")
    assert can_compute("cpu")
    assert can_compute("cpu:0")
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    for error, usable in (
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("CUDA driver error: unspecified launch failure"), False),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
    ):

        def fail(*_, error=error, **__):
            assert emptied  # so that a full card does not look like a broken one
            raise error

        emptied.clear()
        monkeypatch.setattr(torch, "ones", fail)
        assert can_compute("cuda:0") is usable


def test_a_worker_frees_what_holds_itself_before_it_empties_a_gpus_cache(tmp_path):
    run = make_run(0, "holds itself")
    assert sweep(tmp_path, [run], devices=("cuda:0",))[0].finished == (run.run_id,)
    assert [run_id for run_id, _ in read_events(tmp_path, "freed")] == [run.run_id]
    assert not read_events(tmp_path, "held")


@pytest.mark.gpu
def test_jobs_on_one_gpu_get_equal_shares_of_its_memory(tmp_path):
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("needs a CUDA device")
    runs = [make_run(seed, "fills the GPU") for seed in range(2)]
    assert len(sweep(tmp_path, runs, jobs=2, devices=("cuda:0",))[0].finished) == 2
    parts = Counter(run_id for run_id, _ in read_events(tmp_path, "part"))
    assert len(parts) == 2
    assert all(30 <= count <= 32 for count in parts.values())  # torch rounds their sizes up to 2 MB


@pytest.mark.faults
def test_retry_crashed_goes_on_from_the_checkpoint(tmp_path):
    run = make_run(1, "twice")
    assert sweep(tmp_path, [run])[0].crashed == (run.run_id,)
    assert sweep(tmp_path, [run], retry_crashed=True)[0].finished == (run.run_id,)
    assert not (run_folder(tmp_path, run.run_id) / CRASH_FILE).exists()
    assert len(read_events(tmp_path, "begin")) == 3


def test_fail_fast_stops_the_others_at_a_checkpoint(tmp_path):
    runs = [make_run(0, "long"), make_run(1, "raise"), make_run(2, "short")]
    outcome, _ = sweep(tmp_path, runs, jobs=2, fail_fast=True)
    assert outcome.crashed == (runs[1].run_id,)
    assert set(outcome.unfinished) == {runs[0].run_id, runs[2].run_id}
    assert not outcome.interrupted
    assert runs[2].run_id not in [run_id for run_id, _ in read_events(tmp_path, "begin")]


def test_the_users_mistake_stops_the_sweep(tmp_path):
    runs = [make_run(0, "long"), make_run(1, "mistake")]
    with pytest.raises(UserError, match=r"task .*no such column"):
        sweep(tmp_path, runs, jobs=2)
    assert read_sweep_state(tmp_path, runs).crashed == ()
    assert not any(is_running(pid) for _, pid in read_events(tmp_path, "begin"))


@pytest.mark.faults
def test_a_damaged_record_is_reported_and_its_run_done_again(tmp_path):
    run = make_run(1, "short")
    save_record(tmp_path, make_record(run))
    path = run_folder(tmp_path, run.run_id) / "record.json"
    path.write_text(path.read_text()[:50])
    outcome, events = sweep(tmp_path, [run])
    assert outcome.finished == (run.run_id,)
    assert any(isinstance(event, Notice) and "damaged-1" in event.text for event in events)


def test_other_data_stops_the_sweep_before_it_starts(tmp_path):
    run = make_run(1, "short")
    save_record(tmp_path, make_record(run, fingerprint="e" * 64))
    with pytest.raises(UserError, match=f"{'e' * 64}.*{'f' * 64}"):
        sweep(tmp_path, [run, make_run(2, "short")])
    assert read_events(tmp_path, "begin") == []


def test_two_sweeps_on_one_folder_share_the_work(tmp_path):
    both = [start_process(tmp_path, "meet", 12, 2) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=40)
        assert (process.returncode, err) == (0, "")
        assert out.endswith("0 0 False\n")
    begun = read_events(tmp_path, "begin")
    assert sorted(Counter(run_id for run_id, _ in begun).values()) == [1] * 12
    assert len(read_events(tmp_path, "end")) == 12
    assert len({pid for _, pid in begun}) == 4


@pytest.mark.faults
def test_a_run_whose_process_is_killed_is_taken_over(tmp_path):
    """The other sweep, parent and workers, is killed while this one waits for its run."""
    other = start_process(tmp_path, "long", 1, 1)
    with other:
        wait_until(lambda: read_events(tmp_path, "begin"))
        elsewhere = []

        def show(event):
            if isinstance(event, RunEnded) and event.how == "claimed_elsewhere":
                elsewhere.append(event)
                os.killpg(other.pid, signal.SIGKILL)

        outcome, _ = sweep(tmp_path, [make_run(0, "short")], display=show)
    assert len(elsewhere) == 1
    assert len(outcome.finished) == 1
    begun = read_events(tmp_path, "begin")
    assert len(begun) == 2
    assert begun[0][0] == begun[1][0]


@pytest.mark.parametrize("leave_after", [None, 1.0])
def test_a_run_that_others_finish_meanwhile_needs_no_worker(tmp_path, leave_after):
    """One of many processes leaves it to the others without reading its record, even if that is damaged."""
    runs = [make_run(seed, "finishes all") for seed in range(3)]
    seen = {}
    outcome, events = sweep(tmp_path, runs, leave_after=leave_after, seen=seen)
    assert len(read_events(tmp_path, "begin")) == len([e for e in events if isinstance(e, RunStarted)]) == 1
    others = tuple(run.run_id for run in runs[1:])
    if leave_after is None:
        assert outcome.finished == tuple(run.run_id for run in runs)
        assert [e.record.run_id for e in events if isinstance(e, RunEnded)] == list(outcome.finished)
        assert tuple(seen) == others
        assert all(record.evals == () for record in seen.values())
    else:
        assert (outcome.finished, outcome.elsewhere) == ((runs[0].run_id,), others)
        assert seen == {}


def test_a_damaged_record_of_another_process_is_left_to_a_worker(tmp_path):
    runs = [make_run(seed, "damages the next" if seed == 0 else "short") for seed in range(2)]
    outcome, _ = sweep(tmp_path, runs)
    assert len(outcome.finished) == 2
    assert len(read_events(tmp_path, "begin")) == 2
    assert len(list(tmp_path.rglob("record.json.damaged-*"))) == 1


@pytest.mark.faults
def test_ctrl_c_leaves_checkpoints_and_the_same_command_goes_on(tmp_path):
    process = start_process(tmp_path, "long", 3, 2)
    wait_until(lambda: len(read_events(tmp_path, "begin")) == 2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "0 0 2 True\n", "")
    runs = [make_run(seed, "short") for seed in range(3)]
    assert len(read_sweep_state(tmp_path, runs).unfinished) == 2
    assert len(sweep(tmp_path, runs, jobs=2)[0].finished) == 3


@pytest.mark.faults
def test_a_second_ctrl_c_kills(tmp_path):
    process = start_process(tmp_path, "deaf", 1, 1)
    wait_until(lambda: read_events(tmp_path, "begin"))
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.4)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert out == "0 0 0 True\n"
    assert not is_running(read_events(tmp_path, "begin")[0][1])


@pytest.mark.faults
def test_a_killed_parent_leaves_no_orphans(tmp_path):
    process = start_process(tmp_path, "long", 2, 2)
    wait_until(lambda: len(read_events(tmp_path, "begin")) == 2)
    process.kill()
    process.communicate()
    wait_until(lambda: not any(is_running(pid) for _, pid in read_events(tmp_path, "begin")), seconds=5)
    for seed in range(2):
        with claim_run(run_folder(tmp_path, make_run(seed).run_id)) as mine:
            assert mine


@pytest.mark.faults
def test_a_worker_asked_to_go_leaves_its_run_to_another(tmp_path):
    sent = []

    def show(event):
        if isinstance(event, ProgressReported) and not sent:
            sent.append(read_events(tmp_path, "begin")[0][1])
            os.kill(sent[0], signal.SIGTERM)

    outcome, _ = sweep(tmp_path, [make_run(0, "short")], display=show)
    assert len(outcome.finished) == 1
    assert [pid == sent[0] for _, pid in read_events(tmp_path, "begin")] == [True, False]


def test_the_old_signal_handlers_come_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    sweep(tmp_path, [make_run(0, "short")])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_devices():
    assert resolve_devices("cpu") == ["cpu"]
    for text in ("gpu", "0,", "-1", ""):
        with pytest.raises(UserError, match="auto, cpu, or GPU numbers"):
            resolve_devices(text)


@pytest.mark.parametrize(("count", "auto"), [(0, ["cpu"]), (2, ["cuda:0", "cuda:1"])])
def test_devices_of_a_machine(monkeypatch, count, auto):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert resolve_devices("auto") == auto
    with pytest.raises(UserError, match="GPU 7"):
        resolve_devices("0,7" if count else "7")
    with pytest.raises(UserError, match="twice"):
        resolve_devices("1,1")
    if count:
        assert resolve_devices("1,0") == ["cuda:1", "cuda:0"]


def test_threads_are_those_asked_for_or_a_share_of_the_cores(monkeypatch):
    def threads(devices, jobs, **options):
        return {slot.threads for _, slot in LocalExecutor(devices, jobs).slots(Execution(**options))}

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads(["cpu"], 2) == {4}
    assert threads(["cuda:0", "cuda:1"], 8) == {1}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads(["cpu"], 2) == {3}
    assert threads(["cpu"], 2, threads=5) == {5}
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")  # of nested loops: not ours to read
    assert threads(["cpu"], 2) == {4}
