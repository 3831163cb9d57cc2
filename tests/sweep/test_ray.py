"""Sweeps on a real Ray cluster of this machine: nodes that share the results folder or not, and die; Ctrl-C."""

import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest
from support.ray_nodes import HAS_RAY, RayNodes, ray_nodes
from support.sweep_records import make_run

from stableft.config.planned_run import Execution, LocalPaths, RunInterrupted
from stableft.records.run_record import CHECKPOINT_FILE, CONFIG_FILE, RECORD_FILE, run_folder
from stableft.sweep import leases
from stableft.sweep.claims import CLAIM_FILE
from stableft.sweep.state import record_worker_death

needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: the extra test-cluster has it")
MACHINE_KEYS = {"environment", "seconds", "peak_memory_bytes", "checksum", "commits", "energy"}
FILES = ["config.yaml", "history.jsonl", "model-best", "predictions.npz", RECORD_FILE]


@pytest.fixture
def project(tmp_path, monkeypatch, toy_data, tiny_model_folder) -> Path:
    """Makes a test start in a folder with data, a model and a sweep of three runs of 14 seconds or so."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copytree(toy_data, folder / "data")
    shutil.copytree(tiny_model_folder, folder / "tiny")
    write_sweep(folder / "sweep.yaml", 500)
    write_sweep(folder / "short.yaml", 3)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("STABLEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def write_sweep(path: Path, steps: int) -> None:
    path.write_text(
        f"""
task: {{name: toy, train: data/train.csv, validation: data/validation.csv, test: data/test.csv,
  text: [first, second], label: label, labels: ["no", "yes"], metric: accuracy}}
model: tiny
recipe: devlin
seeds: 1-3
set: {{data.max_length: 32, schedule.length: {{steps: {steps}}}, evaluation.every: {{times: 3}}, optimizer.lr: 1.0e-3}}
"""
    )


SWEEP = """
import sys, stableft
options = dict(devices="cpu", save="best", checkpoint_every=40)
if sys.argv[3:]:
    options |= dict(executor="ray", ray_address=sys.argv[3])
try:
    exec(sys.argv[4] if sys.argv[4:] else "")
    sys.exit(130 if stableft.run_sweep(sys.argv[1], results=sys.argv[2], **options).interrupted else 0)
except ValueError as error:
    sys.exit(f"stableft: {error}")
"""


def start(sweep: str, results: str, nodes: RayNodes | None = None, first: str = "") -> subprocess.Popen:
    """Starts a sweep as a script does, without the command's report, which `first` begins."""
    command = [sys.executable, "-c", SWEEP, sweep, results, *([nodes.address, first] if nodes else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    out, _ = process.communicate(timeout=400)
    assert process.returncode == code, out
    return out


def wait_for_checkpoints(results: Path, count: int) -> None:
    deadline = time.monotonic() + 200
    while len(list(results.glob(f"runs/*/{CHECKPOINT_FILE}"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def check_equal(results: Path, local: Path) -> None:
    """Nothing is lost, nothing is left behind, and all that runs leave is that of local runs, byte by byte."""
    assert sorted(path.name for path in results.iterdir()) == [".claims", "runs"]
    folders = sorted((results / "runs").iterdir())
    assert [folder.name for folder in folders] == sorted(path.name for path in (local / "runs").iterdir())
    for folder in folders:
        twin = local / "runs" / folder.name
        assert sorted(path.name for path in folder.iterdir()) == FILES
        records = [json.loads((one / RECORD_FILE).read_text()) for one in (folder, twin)]
        assert {key for key in records[0] if records[0][key] != records[1][key]} <= MACHINE_KEYS
        assert records[0].keys() == records[1].keys()
        assert records[0]["status"] == "finished"
        for name in FILES[:-1]:
            for path in sorted((twin / name).rglob("*")) if (twin / name).is_dir() else [twin / name]:
                assert (folder / path.relative_to(twin)).read_bytes() == path.read_bytes(), path


def count_ends(out: str) -> int:
    return len(re.findall(r"(finished|failed at its end), last accuracy", out))


@needs_ray
@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_sweep_on_a_node_that_shares_the_folder(project):
    with ray_nodes(1) as nodes:
        out = finish(start("short.yaml", "ray", nodes))
    assert "1 worker on 1 Ray node; the results folder is shared by all" in out
    assert count_ends(out) == 3
    assert "Ended: 3 of 3 runs done" in out
    finish(start("short.yaml", "local"))
    check_equal(project / "ray", project / "local")


@needs_ray
@pytest.mark.nightly
@pytest.mark.cluster
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shared", [True, False])
def test_ctrl_c_and_the_loss_of_a_node_in_the_middle(project, shared):
    results = project / "ray"
    if not shared and subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("mounts a file system")
    finish(start("sweep.yaml", "local"))
    with ray_nodes(2, hidden=None if shared else project) as nodes:
        process = start("sweep.yaml", "ray", nodes)
        wait_for_checkpoints(results, 2)
        process.send_signal(signal.SIGINT)
        out = finish(process, 130)
        assert (
            "2 workers on 2 Ray nodes; the results folder is " + ("shared by all" if shared else "not seen by") in out
        )
        assert "3 left (2 with a checkpoint); run the same command to continue" in out
        assert not list(results.glob(".ray*"))
        saved = {path: path.stat().st_mtime_ns for path in results.glob(f"runs/*/{CHECKPOINT_FILE}")}
        process = start("sweep.yaml", "ray", nodes)
        deadline = time.monotonic() + 200
        while any(path.exists() and path.stat().st_mtime_ns == time_ for path, time_ in saved.items()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        nodes.kill_node()
        out = finish(process)
    assert re.search(
        r"the worker process died with the loss of its node .*; it is tried elsewhere, from its last checkpoint", out
    )
    assert count_ends(out) == 3
    assert "raylet" not in out
    check_equal(results, project / "local")


@needs_ray
@pytest.mark.nightly
@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["worker", "actor"])
def test_a_run_that_kills_its_worker_on_another_host_crashes_at_the_second_time(project, victim):
    if subprocess.run(["unshare", "-u", "true"]).returncode:
        pytest.skip("sets a host name")
    sweep, killed, killed_at = project / "sweep.yaml", set(), 0.0
    sweep.write_text(sweep.read_text().replace("seeds: 1-3", "seeds: 1"))
    with ray_nodes(1, host="elsewhere") as nodes:
        process = start("sweep.yaml", "ray", nodes)
        deadline = time.monotonic() + 300
        while process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
            for path in project.glob(f"ray/runs/*/{CLAIM_FILE}"):
                with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
                    holder = json.loads(path.read_text())
                    if holder["host"] == "elsewhere" and holder["pid"] not in killed and len(killed) < 3:
                        worker = psutil.Process(holder["pid"])
                        psutil.Process(worker.pid if victim == "worker" else worker.ppid()).kill()
                        killed.add(holder["pid"])
                        killed_at = time.monotonic()
        seconds = time.monotonic() - killed_at
        out = finish(process)
    assert len(killed) == 2, out
    assert seconds < 60, "another host's claim expires later"
    assert "1 crashed" in out
    [record] = project.glob(f"ray/runs/*/{RECORD_FILE}")
    cause = "signal 9 (Killed)" if victim == "worker" else "its Ray actor"
    assert json.loads(record.read_text())["reason"].startswith(f"the worker process died with {cause}")


@needs_ray
@pytest.mark.nightly
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_rule_ends_a_sweep_once_its_claim_is_decided(project):
    """Exactly as many runs of either arm as the first look needs, and those that were begun for the next one."""
    (project / "score.py").write_text("import sys; print('accuracy', sys.argv[2])\n")
    arm = "  - name: {}\n    command: python score.py {{seed}} {}\n    inputs: [score.py]\n    {}\n"
    score = "score: {pattern: 'accuracy (.*)', scale: 1}\n    baseline: 0.5"
    (project / "decided.yaml").write_text(
        "task: mine\nseeds: 1-40\ndecide: {between: [bad, good], about: failures, looks: [5, 20, 40]}\narms:\n"
        + arm.format("bad", 0.4, score)
        + arm.format("good", 0.9, score)
    )
    with ray_nodes(2) as nodes:
        out = finish(start("decided.yaml", "ray", nodes))
    assert "2 workers on 2 Ray nodes" in out
    saved = re.search(r"Ended: (\d+) of 80 runs done, (\d+) of them failed, (\d+) saved", out)
    assert saved, out
    done, failed, rest = map(int, saved.groups())
    assert done + rest == 80
    assert done < 40
    records = [json.loads(path.read_text()) for path in (project / "ray").glob(f"runs/*/{RECORD_FILE}")]
    seeds = {arm: {r["config"]["seeds"]["init"] for r in records if r["arm"] == arm} for arm in ("bad", "good")}
    assert len(records) == done
    assert failed == len(seeds["bad"])
    for some in seeds.values():
        assert {1, 2, 3, 4, 5} <= some
    assert re.search(r"good .*better", out)


@needs_ray
@pytest.mark.nightly
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_nodes_without_a_large_model(project):
    """It is not sent, and nothing is left of the results folder."""
    with open(project / "tiny" / "large.model", "wb") as file:
        file.truncate((100 << 20) + 1)
    with ray_nodes(1, hidden=project) as nodes:
        out = finish(start("short.yaml", "ray", nodes), 1)
    assert re.search(r"project/tiny: Ray node .* lacks it or has other contents, and its .* bytes are too many", out)
    assert not (project / "ray").exists()


@needs_ray
@pytest.mark.nightly
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_node_that_joins_late_and_differs_gets_no_runs(project):
    with ray_nodes(2) as nodes:
        process = start("sweep.yaml", "ray", nodes)
        wait_for_checkpoints(project / "ray", 2)
        nodes.add_node("99.0")
        nodes.kill_node()
        out = finish(process)
    assert re.search(r"Ray node .* has stableft 99.0, but this machine has .*; it gets no runs of this sweep", out)
    assert count_ends(out) == 3
    assert "Ended: 3 of 3 runs done" in out


# As of a node that joins with another version when the others have been looked at, and is the only one left.
OTHER_VERSION = """
from stableft.sweep import ray_workers
slots = ray_workers.RayExecutor.slots
def then_differ(*arguments):
    ray_workers.read_versions = lambda: {"torch": "0.1"}
    return slots(*arguments)
ray_workers.RayExecutor.slots = then_differ
"""

# The first order of each worker does not reach its actor, as in a short failure of the network.
LOST_ORDER = """
import ray
from ray.actor import ActorMethod
from ray.exceptions import ActorUnavailableError
remote, lost = ActorMethod.remote, []
@ray.remote(num_cpus=0)
def fail():
    raise ActorUnavailableError("the network", None)
def remote_but_once(self, *arguments, **options):
    if self._method_name == "send" and not lost:
        lost.append(arguments)
        return fail.remote()
    return remote(self, *arguments, **options)
ActorMethod.remote = remote_but_once
"""


@needs_ray
@pytest.mark.nightly
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_node_that_differs_later_and_an_order_that_is_lost(project):
    with ray_nodes(1) as nodes:
        out = finish(start("short.yaml", "differs", nodes, OTHER_VERSION), 1)
        assert "Traceback" not in out
        assert re.search(r"^stableft: Ray node .* has torch .*, but this machine has 0.1: install the same", out, re.M)
        out = finish(start("short.yaml", "ray", nodes, LOST_ORDER))
    assert count_ends(out) == 3


@needs_ray
@pytest.mark.slow
def test_addresses_that_do_not_answer(project, stableft, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address, words in (
        (f"127.0.0.1:{port}", f"--ray-address 127.0.0.1:{port}: no Ray cluster answers at "),
        ("nonsense", "--ray-address nonsense: must be HOST:PORT, such as 10.0.0.1:6379"),
        (
            "ray://127.0.0.1:10001",
            "--ray-address ray://127.0.0.1:10001: must be HOST:PORT; run the command",
        ),
    ):
        code, _, err = stableft("sweep", "short.yaml", "--executor", "ray", "--ray-address", address)
        assert (code, err.count("\n")) == (2, 1), err
        assert err.startswith(f"stableft: {words}")
    monkeypatch.setenv("RAY_TMPDIR", str(project))
    code, _, err = stableft("sweep", "short.yaml", "--executor", "ray")
    assert (code, "no Ray cluster runs on this machine" in err) == (2, True)
    assert not (project / "results").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ray-address", "10.0.0.1:6379"], "--ray-address: an option of --executor ray; give that too"),
        (["--executor", "ray", "--devices", "0,1"], "--devices '0,1': with --executor ray, auto or cpu"),
        (["--executor", "ray", "--dry-run"], "--dry-run measures on the devices of this machine"),
    ],
)
def test_options_that_do_not_fit(project, stableft, options, words):
    code, _, err = stableft("sweep", "short.yaml", *options)
    assert (code, err.count("\n")) == (2, 1), err
    assert words in err
    assert not (project / "results").exists()


def test_ray_is_not_installed(project, stableft, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = stableft("sweep", "short.yaml", "--executor", "ray")
    assert code == 2
    assert err == "stableft: --executor ray: Ray is not installed here; pip install 'stableft[ray]' installs it\n"


class StubbedRayError(Exception):
    pass


@pytest.fixture
def ray_modules():
    """The two ends of a Ray worker, `ray_workers` and `ray_node`, imported without Ray."""
    errors = dict.fromkeys(("RayError", "ActorUnavailableError"), StubbedRayError)
    kinds = dict.fromkeys(("NodeAffinitySchedulingStrategy", "NodeLabelSchedulingStrategy", "NotIn"), object)
    stubs = {"ray": {}, "ray.exceptions": errors, "ray.util": {}, "ray.util.scheduling_strategies": kinds}
    ours = ("stableft.sweep.ray_node", "stableft.sweep.ray_workers")
    before = {name: sys.modules.pop(name, None) for name in (*stubs, *ours)}
    for name, values in stubs.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(values)
    try:
        yield SimpleNamespace(node=importlib.import_module(ours[0]), workers=importlib.import_module(ours[1]))
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module:
                sys.modules[name] = module


@pytest.fixture
def make_link(ray_modules, tmp_path):
    """Makes links to a worker whose files travel. The node is in this process, and the link has no threads."""

    class Actor:
        def __init__(self):
            self.node = ray_modules.node.NodeWorker()

        def __getattr__(self, method):
            def call(*arguments):
                try:
                    return getattr(self.node, method)(*arguments)
                except OSError as error:  # as Ray does
                    raise StubbedRayError(repr(error)) from error

            return SimpleNamespace(remote=call)

    class Link(ray_modules.workers.RayLink):
        def _make_actor(self):
            return Actor()

        def _listen(self, *_):
            self.shared = False

        def _send_orders(self):
            pass

        def _call(self, method, *arguments):
            return getattr(self.actor, method).remote(*arguments)

    results, links = tmp_path / "results", []

    def make():
        executor = SimpleNamespace(results=results, changed=threading.Condition())
        place = ray_modules.workers.WorkerPlace("node", "id", "node", 1, 0)
        links.append(Link(executor, place, LocalPaths(), Execution(), None, 1.0))
        links[-1].listener.join()
        return links[-1]

    yield make
    for link in links:
        link.actor.node.close_files()
        link.actor.node.clean_up()


@pytest.mark.parametrize("word", ["done", "interrupted"])
@pytest.mark.parametrize("loss", ["killed", "folder", "some"])
def test_files_that_are_gone_from_the_node_are_kept_here(make_link, monkeypatch, word, loss):
    """The worker's last word may be read after the node's files were removed, which says nothing about the run."""
    link, run = make_link(), make_run(1)
    here = run_folder(link.executor.results, run.run_id)
    here.mkdir(parents=True)
    for name in (CONFIG_FILE, "history.jsonl", CHECKPOINT_FILE, RECORD_FILE):
        (here / name).write_text("of the finished run that is trained again")
    there = run_folder(link.actor.node.scratch, run.run_id)

    def lose(node, *_):
        assert sorted(path.name for path in there.iterdir()) == sorted(path.name for path in here.iterdir())
        if loss == "killed":  # a second Ctrl-C, or the worker was hung
            link.kill()
        elif loss == "folder":
            shutil.rmtree(node.scratch)
        else:
            (there / (RECORD_FILE if word == "done" else CONFIG_FILE)).unlink()

    monkeypatch.setattr(type(link.actor.node), "send", lose)
    link.events.put((word, (None, True) if word == "done" else None))
    with pytest.raises(RunInterrupted):
        link._train_remotely(run, None)
    assert link.lost
    assert {path.name for path in here.iterdir()} == {CONFIG_FILE, "history.jsonl", CHECKPOINT_FILE, RECORD_FILE}
    assert link.actor.node.is_removed, "a worker that is alive would be waited for"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(24, "Too many open files")])
def test_an_error_at_the_claim_of_a_run_whose_files_travel_ends_the_sweep(make_link, ray_modules, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(ray_modules.workers, "run_under_claim", fail)
    link = make_link()
    link.send((make_run(1), None))
    link._carry_runs()
    [(word, text)] = link.reports
    assert word == "broken"
    assert f"{type(error).__name__}: {error}" in text
    assert link.actor.node.is_removed
    assert link.given_up


def test_an_actor_that_fails_while_it_is_alive_ends_its_worker(make_link, monkeypatch):
    """As one whose disk is full. It would be waited for, because it says that it is well."""
    link = make_link()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(link.actor.node), "clear", fail)
    with pytest.raises(RunInterrupted):
        link._train_remotely(make_run(1), None)
    assert link.lost
    assert link.actor.node.is_removed
    monkeypatch.setattr(link, "_call", lambda *_: SimpleNamespace(reports=[], checkpoint=None, end="signal 9"))
    assert link._pass_reports_on().cause == "its Ray actor (OSError(28, 'No space left on device'))"


def kill_this_process(*_):
    os._exit(3)


def test_a_worker_that_dies_on_another_host_leaves_no_claim(ray_modules, tmp_path, monkeypatch):
    """Its host alone sees that it is dead. The driver could not record a run that kills its workers as crashed."""
    node, run = ray_modules.node.NodeWorker(), make_run(1)
    try:
        node.start(tmp_path, LocalPaths(), Execution(), kill_this_process, 10.0, {}, False)
        node.send(0, (run, None))
        words, deadline = [], time.monotonic() + 60
        while not (answer := node.receive(len(words))).end:
            words += [word for word, _ in answer.reports]
            assert time.monotonic() < deadline
    finally:
        node.clean_up()
    assert words == ["ready", "started"]
    assert answer.end.cause == "exit code 3"
    assert not (run_folder(tmp_path, run.run_id) / CLAIM_FILE).exists()
    monkeypatch.setattr(leases, "this_host", lambda: ("driver", "boot", "table"))
    record = record_worker_death(run, tmp_path, None, "a test", 1.0)
    assert record
    assert record.status == "crashed"
