"""Write runs to trackers through the tools' own clients: trackio, TensorBoard, Weights & Biases, MLflow.

Each function yields a function that logs values at a step. It imports its tool, so only a tracker's process calls it.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stableft.errors import UserError, did_you_mean
from stableft.sweep.leases import Lease, take_lease

LogValues = Callable[[int, Mapping[str, float]], None]
HELD_LEASE_SECONDS = 0.2  # between looks at a lease that another process holds
MLFLOW_LEASE = ".mlflow.lease"  # in the results folder
MLFLOW_SECONDS = 60.0  # for other processes to open the file, each of which takes a second or two


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run before its values. Runs that differ in their seed alone share a `group`.

    `key` is unique to this outcome of the run, so that what was sent in part can be found and replaced. `project` is
    the sweep's name, `results` its results folder. `config` holds no seeds: tools group runs by equal values.
    """

    key: str
    name: str
    group: str
    project: str
    results: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, Any] = field(default_factory=dict)
    crashed: bool = False

    @property
    def values(self) -> dict[str, Any]:
        return {**self.config, **self.seeds, "key": self.key}


@contextmanager
def log_to_trackio(run: TrackedRun) -> Iterator[LogValues]:
    import trackio  # pyright: ignore[reportMissingImports]

    project = run.project.replace("/", "-")
    with suppress(ValueError):  # the project is new
        for earlier in trackio.Api().runs(project):
            if earlier.name == run.name and (earlier.config or {}).get("key") == run.key:
                earlier.delete()
    sent = trackio.init(
        project,
        name=run.name,
        group=run.group,
        config=run.values,
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    yield lambda step, values: sent.log(dict(values), step=step)
    sent.finish()


@contextmanager
def log_to_tensorboard(run: TrackedRun) -> Iterator[LogValues]:
    """The folder appears when it is complete. Its plugin for hyperparameters takes the mean over a group's runs."""
    from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData  # pyright: ignore
    from tensorboardX.summary import hparams  # pyright: ignore[reportMissingImports]

    folder = tensorboard_folder(run)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    names: dict[str, float] = {}
    with SummaryWriter(str(partial)) as writer:

        def log(step: int, values: Mapping[str, float]) -> None:
            names.update(values)
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        yield log
        flat = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in {**run.config, "arm": run.group}.items()
        }
        experiment, start, end = hparams(flat, {name: 0.0 for name in names if "/" not in name})
        plugin = start.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin.content)
        content.session_start_info.group_name = run.group
        plugin.content = content.SerializeToString()
        assert writer.file_writer
        for summary in (experiment, start, end):
            writer.file_writer.add_summary(summary)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def tensorboard_folder(run: TrackedRun) -> Path:
    """Return the folder of a run, named for the regular expressions by which TensorBoard chooses runs."""
    name = "".join(sign if sign.isalnum() or sign in " .,=+-@" else "_" for sign in f"{run.name} {run.key[:8]}")
    return run.results / "tensorboard" / run.project.replace("/", "-") / name


@contextmanager
def log_to_wandb(run: TrackedRun) -> Iterator[LogValues]:
    """Offline runs are files until `wandb sync` sends them; equal ids are then one run."""
    import wandb  # pyright: ignore[reportMissingImports]

    sent = wandb.init(
        project=run.project.replace("/", "-"),
        name=run.name,
        id=run.key,
        group=run.group,
        job_type="train",
        config=run.values,
        dir=os.environ.get("WANDB_DIR", str(run.results)),
        resume="allow",
        reinit="create_new",
        settings=wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off", silent=True),
    )
    yield lambda step, values: sent.log(dict(values), step=step)
    sent.finish(exit_code=int(run.crashed))


@contextmanager
def log_to_mlflow(run: TrackedRun) -> Iterator[LogValues]:
    """Without MLFLOW_TRACKING_URI, to the SQLite file mlflow.db in the results folder."""
    for name, value in {"MAX_RETRIES": "1", "TIMEOUT": "30"}.items():  # seven, and 120 s, would hold up all others
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
    from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
    from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]

    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{run.results.resolve() / 'mlflow.db'}")
    with _opened_alone(run.results) if uri.startswith("sqlite:") else nullcontext():
        client = MlflowClient(uri)
        try:
            known = client.get_experiment_by_name(run.project)
            experiment = known.experiment_id if known else client.create_experiment(run.project)
        except MlflowException:
            if not (known := client.get_experiment_by_name(run.project)):
                raise
            experiment = known.experiment_id  # another process has made it meanwhile
    for earlier in client.search_runs([experiment], f"tags.`stableft.key` = '{run.key}'"):
        client.delete_run(earlier.info.run_id)
    tags = {"stableft.key": run.key, "arm": run.group}
    sent = client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
    # MLflow takes 100 parameters and 1,000 metrics at a time.
    params = [Param(name, str(value)[:6000]) for name, value in run.values.items()]
    for first in range(0, len(params), 100):
        client.log_batch(sent, params=params[first : first + 100])
    waiting: list[Any] = []
    flushed_at = time.monotonic()

    def flush() -> None:
        nonlocal flushed_at
        client.log_batch(sent, metrics=[waiting.pop(0) for _ in range(min(1000, len(waiting)))])
        flushed_at = time.monotonic()

    def log(step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        waiting.extend(Metric(name, float(value), now, step) for name, value in values.items())
        if len(waiting) >= 1000 or time.monotonic() - flushed_at > 5:
            flush()

    yield log
    while waiting:
        flush()
    client.set_terminated(sent, "FAILED" if run.crashed else "FINISHED")


@contextmanager
def _opened_alone(results: Path) -> Iterator[None]:
    """Keep other processes on these results from MLflow's SQLite file: two that make its tables at once fail."""
    lease = wait_for_lease(results / MLFLOW_LEASE, MLFLOW_SECONDS, "has not finished opening MLflow's file")
    try:
        yield
    finally:
        lease.release()


def wait_for_lease(path: Path, seconds: float, why: str) -> Lease:
    """Return a lease that is renewed, once no other process holds it.

    Raises:
        TimeoutError: One does for so many seconds. `why` says what it has not done.
    """
    deadline = time.monotonic() + seconds
    while (lease := take_lease(path)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process {why}")
        time.sleep(HELD_LEASE_SECONDS)
    lease.keep()
    return lease


@dataclass(frozen=True)
class TrackerTool:
    """A tracker: the function that logs a run to it, its Python package, and the name by which pip knows that.

    `has_sd`: it shows mean and SD of a group of runs itself.
    """

    open_run: Callable[[TrackedRun], AbstractContextManager[LogValues]]
    module: str
    package: str
    has_sd: bool = False


TRACKERS = {
    "trackio": TrackerTool(log_to_trackio, "trackio", "trackio"),
    "tensorboard": TrackerTool(log_to_tensorboard, "tensorboardX", "tensorboardX"),
    "wandb": TrackerTool(log_to_wandb, "wandb", "wandb", has_sd=True),
    "mlflow": TrackerTool(log_to_mlflow, "mlflow", "mlflow"),
}


def check_tracker(name: str, option: str) -> str:
    """Return the name of a tracker.

    Raises:
        UserError: There is no such tracker, or its package is not installed.
    """
    if name not in TRACKERS:
        raise UserError(f"{option} {name!r}: must be one of {', '.join(TRACKERS)}{did_you_mean(name, TRACKERS)}")
    tool = TRACKERS[name]
    if find_spec(tool.module) is None:
        raise UserError(
            f"{option} {name}: the package {tool.package} is not installed; `pip install {tool.package}`, or the extra "
            "`track` of stableft, installs it"
        )
    return name


def describe_place(name: str, results: Path) -> str:
    """Return where a tracker writes, as far as it is told by environment variables or is in the results folder."""
    names = {
        "trackio": ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_DIR"),
        "wandb": ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE", "WANDB_DIR"),
        "mlflow": ("MLFLOW_TRACKING_URI",),
    }.get(name, ())
    given = [f"{key}={value}" for key in names if (value := os.environ.get(key))]
    return " ".join([name, *given]) if given or name == "trackio" else f"{name} {results.resolve()}"
