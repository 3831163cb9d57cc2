"""Find finished runs, their saved weights and their inputs; show progress while probing them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stableft.config.local_files import locate_model, model_folder_digest, shipped_configs
from stableft.config.planned_run import LocalPaths
from stableft.config.run_config import Checkpoint, ModelConfig
from stableft.config.sweep_file import Sweep
from stableft.errors import UserError
from stableft.records.failure import has_failed
from stableft.records.file_sums import check_undamaged
from stableft.records.run_record import BEST_FOLDER, LAST_FOLDER, RunRecord, read_intact_record, read_record, run_folder
from stableft.text import Pace, open_live_output

WEIGHTS_FOLDERS: dict[Checkpoint, str] = {"best": BEST_FOLDER, "last": LAST_FOLDER}


def find_run_id(results: Path, id_or_path: str) -> str:
    """Return the id of a run, given that, the beginning of it, or the path of the run's folder.

    Raises:
        UserError: there is no such run, or more than one.
    """
    prefix = Path(id_or_path).name
    found = sorted(path.name for path in (results / "runs").glob("*") if path.is_dir() and path.name.startswith(prefix))
    if not prefix or not found:
        raise UserError(
            f"run {id_or_path!r}: {results} has no such run; `stableft status --results {results}` lists the runs"
        )
    if len(found) > 1 and prefix not in found:
        raise UserError(
            f"run {id_or_path!r}: {len(found)} runs begin so: {', '.join(found[:3])}, ...; give more of the id"
        )
    return prefix if prefix in found else found[0]


def find_run(results: Path, id_or_path: str) -> RunRecord:
    """Return the record of a finished run, named as in `find_run_id`.

    Raises:
        UserError: there is no such run, or more than one.
    """
    record = read_record(results, find_run_id(results, id_or_path))
    if record is None or record.status != "finished":
        raise UserError(f"run {id_or_path!r}: it is not finished in {results}, and a probe needs a run's end")
    if record.command is not None:
        raise UserError(f"run {id_or_path!r}: it is a command, of whose model a probe knows nothing")
    return record


def weights_folder(results: Path, record: RunRecord, checkpoint: Checkpoint) -> Path:
    """Return the folder with a run's saved weights in the format of transformers.

    Raises:
        UserError: the weights were not kept, or are damaged; the message names the command that makes them.
    """
    folder = run_folder(results, record.run_id) / WEIGHTS_FOLDERS[checkpoint]
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            f"run {record.run_id} ({record.arm} {record.config.data.task}): its {checkpoint} weights were not kept; "
            f"`stableft sweep CONFIG --save {checkpoint} --complete` with the sweep file that it is of trains it again "
            "and keeps them"
        )
    check_undamaged(run_folder(results, record.run_id), record.files, folder.name)
    return folder


def find_runs_with_weights(
    results: Path, sweep: Sweep, checkpoint: Checkpoint, failed: bool | None = None
) -> list[RunRecord]:
    """Return the finished runs of a sweep whose weights were kept, or only those that `failed`, or did not.

    Raises:
        UserError: there are none.
    """
    records = [record for run in sweep.runs if (record := read_intact_record(results, run.run_id))]
    found = [
        record
        for record in records
        if record.status == "finished"
        and (run_folder(results, record.run_id) / WEIGHTS_FOLDERS[checkpoint] / "model.safetensors").is_file()
        and (failed is None or bool(has_failed(record)) == failed)
    ]
    if not found:
        kind = {None: "finished", True: "failed", False: "successful"}[failed]
        raise UserError(
            f"{sweep.path}: {results} has no {kind} run of it with {checkpoint} weights; `stableft sweep {sweep.path} "
            f"--save {checkpoint} --complete` keeps them"
        )
    return found


def locate_sources(
    records: Sequence[RunRecord],
    pretrained: str | None,
    sweep: Sweep | None,
    data_dir: Path | None = None,
    with_data: bool = True,
) -> LocalPaths:
    """Return the paths of the runs' model and, `with_data`, of their data files.

    `pretrained` is the model's folder or hub name, `sweep` that of the runs. If neither gives the model, it is
    searched for among the models shipped with the package.

    Raises:
        UserError: the runs have different models, `pretrained` is another model, or a path is unknown.
    """
    model = records[0].run_config.model
    for record in records[1:]:
        if record.run_config.model.identity != model.identity:
            raise UserError(
                f"runs {records[0].run_id} and {record.run_id} are of two models, {model.name} and "
                f"{record.run_config.model.name}"
            )
    sources = LocalPaths(data_dir=data_dir)
    if sweep is not None:
        sources = replace(sources, paths=sweep.sources.paths)
    if pretrained is not None:
        values, folder = locate_model(pretrained, (Path.cwd(), shipped_configs()), "--pretrained")
        given = ModelConfig.model_construct(**{"revision": None, "sha256": None, **values})
        if given.identity != model.identity:
            raise UserError(f"--pretrained {pretrained}: run {records[0].run_id} was trained from another model")
        if folder:
            sources = replace(sources, paths={**sources.paths, str(given.sha256): folder})
    if model.sha256 is not None and model.sha256 not in sources.paths:
        shipped = shipped_configs() / model.name
        shipped = shipped if shipped.is_dir() else shipped_configs() / "demo" / model.name
        if not shipped.is_dir() or model_folder_digest(shipped) != model.sha256:
            raise UserError(f"run {records[0].run_id}: where is its model {model.name}? Give --pretrained FOLDER")
        sources = replace(sources, paths={**sources.paths, model.sha256: shipped})
    for name, digest in _data_files(records) if with_data else ():
        if digest not in sources.paths:
            raise UserError(f"run {records[0].run_id}: where is the data of its task {name}? Give --config SWEEP_FILE")
    return sources


def _data_files(records: Sequence[RunRecord]):
    for record in records:
        own = record.config.data.own
        if own:
            yield from ((record.config.data.task, d) for d in (own.train, own.validation, own.test) if d)


ProgressCallback = Callable[[str, int], None]  # takes a label of the current step and how much was newly done


@contextmanager
def show_probe_progress(total: int, before: int = 0) -> Iterator[ProgressCallback]:
    """Yield the function that is told what was done, and shows it with the share done and the time left.

    `total` counts the whole work; `before` is the part that earlier processes did, which does not count for the speed.
    """
    pace, done = Pace(total, before), before
    with open_live_output(transient=True) as output:

        def show(label: str, newly_done: int) -> None:
            nonlocal done
            done += newly_done
            output.show(lambda: f"{label}  {done / total:.0%}  {pace.time_left(done)}")

        yield show
