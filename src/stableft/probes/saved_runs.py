"""Find finished runs, their saved weights and their inputs; show progress while probing them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stableft.config.local_files import locate_model, model_folder_digest, shipped_configs
from stableft.config.planned_run import LocalPaths
from stableft.config.run_config import Checkpoint, ModelConfig
from stableft.config.sweep_file import load_sweep
from stableft.errors import UserError
from stableft.records.run_record import BEST_FOLDER, LAST_FOLDER, RunRecord, read_record, run_folder
from stableft.text import Pace, open_live_output


def find_run(results: Path, name: str) -> RunRecord:
    """Returns the record of a finished run by its id, the beginning of its id, or the path of its folder.

    Raises:
        UserError: there is none, or the beginning is that of several.
    """
    wanted = Path(name).name
    found = sorted(path.name for path in (results / "runs").glob("*") if path.is_dir() and path.name.startswith(wanted))
    if not wanted or not found:
        raise UserError(f"run {name!r}: {results} has no such run; `stableft status --results {results}` tells what is")
    if len(found) > 1 and wanted not in found:
        raise UserError(f"run {name!r}: {len(found)} runs begin so: {', '.join(found[:3])}, ...; give more of the id")
    record = read_record(results, wanted if wanted in found else found[0])
    if record is None or record.status != "finished":
        raise UserError(f"run {name!r}: it is not finished in {results}, and a probe needs a run's end")
    return record


def weights_folder(results: Path, record: RunRecord, checkpoint: Checkpoint) -> Path:
    """Returns the folder with a run's weights, which transformers loads.

    Raises:
        UserError: they were not kept; the message names the command that makes them.
    """
    folder = run_folder(results, record.run_id) / {"best": BEST_FOLDER, "last": LAST_FOLDER}[checkpoint]
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            f"run {record.run_id} ({record.arm} {record.config.data.task}): its {checkpoint} weights were not kept; "
            f"`stableft sweep CONFIG --save {checkpoint} --complete` with the sweep file that it is of trains it again "
            "and keeps them"
        )
    return folder


def locate_sources(
    records: Sequence[RunRecord],
    pretrained: str | None,
    config: str | None,
    data_dir: Path | None = None,
    with_data: bool = True,
) -> LocalPaths:
    """Returns where the model of these runs lies, and their data if a probe needs it.

    `pretrained` is a folder or hub name of the model, `config` the sweep file of the runs; what neither of them says
    is looked for among the package's own models.

    Raises:
        UserError: the runs are of several models, or theirs is another or is not found.
    """
    model = records[0].config.model
    for record in records[1:]:
        if record.config.model.identity != model.identity:
            raise UserError(
                f"runs {records[0].run_id} and {record.run_id} are of two models, {model.name} and "
                f"{record.config.model.name}"
            )
    sources = LocalPaths(data_dir=data_dir)
    if config is not None:
        sources = load_sweep(config, sources).sources
    if pretrained is not None:
        values, folder = locate_model(pretrained, (Path.cwd(), shipped_configs()), "--pretrained")
        given = ModelConfig.model_construct(**{"revision": None, "sha256": None, **values})
        if given.identity != model.identity:
            raise UserError(f"--pretrained {pretrained}: run {records[0].run_id} was trained from another model")
        if folder:
            sources = replace(sources, paths={**sources.paths, str(given.sha256): folder})
    if model.sha256 is not None and model.sha256 not in sources.paths:
        own = shipped_configs() / model.name
        own = own if own.is_dir() else shipped_configs() / "demo" / model.name
        if not own.is_dir() or model_folder_digest(own) != model.sha256:
            raise UserError(f"run {records[0].run_id}: where is its model {model.name}? Give --pretrained FOLDER")
        sources = replace(sources, paths={**sources.paths, model.sha256: own})
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
