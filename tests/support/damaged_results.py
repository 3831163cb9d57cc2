"""Flips bits and cuts ends of every kind of file that runs leave, and reads each with what uses it.

A damage is noticed if the user of the file is told, by an error or a warning; what was computed again must be equal. It
is harmless if nothing is said and what was read is equal. It is silent if nothing is said and something else was read.
"""

import logging
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from support.damaged_files import Tally, damage_file
from support.forked_sweeps import SETTINGS
from support.table_records import make_imported
from support.training_runs import run_outputs, train_run

from stableft.config.local_files import model_folder_digest
from stableft.config.planned_run import Execution, InLoopProbes, LocalPaths, PlannedRun, RunInterrupted
from stableft.config.sweep_file import load_sweep
from stableft.errors import UserError
from stableft.probes.per_example_data import MissingPredictions, _read_predictions
from stableft.probes.saved_runs import weights_folder
from stableft.python_api import load_history, load_records
from stableft.records.probe_record import DriftRecord, find_probes_in_results
from stableft.records.run_record import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    HISTORY_FILE,
    LAST_FOLDER,
    PREDICTIONS_FILE,
    RECORD_FILE,
    dump_record,
    read_record,
    read_records_file,
    run_folder,
    write_records_file,
)
from stableft.sweep.state import find_missing_outputs

COMPUTED = ("checkpoint", "token cache")  # files of which damage is told and what they saved is computed again


class _Notices(logging.Handler):
    """Collects the warnings of the package."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def notices() -> Iterator[list[str]]:
    logger, handler = logging.getLogger("stableft"), _Notices()
    logger.addHandler(handler)
    logger.propagate = False  # a sound run warns of nothing, and a damaged one is told here
    try:
        yield handler.texts
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


class SavedRun:
    """A finished run with all that it can leave, the same run stopped on its way, and files of records."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.sources = LocalPaths(cache_dir=folder / "cache")
        sweep = load_sweep("smoke", self.sources, ["schedule.length={steps: 12}", SETTINGS[1]])
        self.sources = sweep.sources
        self.run: PlannedRun = replace(sweep.runs[0], probes=InLoopProbes(drift=1))
        self.whole, self.stopped = folder / "whole", folder / "stopped"
        self.record = train_run(self.run, self.whole, self.sources, save="last")
        with suppress(RunInterrupted):
            train_run(self.run, self.stopped, self.sources, stop_at=6, checkpoint_every=3, save="last")
        (folder / "records").mkdir()
        imported = [make_imported(seed=seed) for seed in range(4)]
        write_records_file(folder / "records" / "records.jsonl", [self.record, *imported])

    def copy(self, name: str) -> Path:
        """Returns a new copy of a results folder."""
        target = self.folder / "copy"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder / name, target)
        return target

    def train(self, results: Path, cache: Path | None = None) -> dict:
        sources = replace(self.sources, cache_dir=cache or self.sources.cache_dir)
        record = train_run(self.run, results, sources, save="last")
        return {**run_outputs(results, record), "files": record.files}

    def uses(self) -> dict[str, tuple[str, Callable[[Path], list[Path]], Callable[[Path], object]]]:
        """Returns kind of file -> the folder to copy, the files of that kind in it, and what uses them."""
        run, run_id = self.run, self.run.run_id

        def beside(name: str) -> Callable[[Path], list[Path]]:
            return lambda results: [run_folder(results, run_id) / name]

        def weights(results: Path) -> str:
            record = read_record(results, run_id)
            assert record
            return model_folder_digest(weights_folder(results, record, "last"))

        def record(results: Path) -> list[str]:
            return load_records(results).astype(str).to_numpy().tolist()

        def config(results: Path) -> tuple[str, ...]:
            found = read_record(results, run_id)
            assert found
            if missing := find_missing_outputs(results, run, found, Execution()):
                raise UserError(f"missing: {missing}")  # as the sweep tells
            return missing

        def predictions(results: Path) -> str:
            found = _read_predictions(results, run, "val", "last")
            return repr(found if isinstance(found, MissingPredictions) else found.predictions.tolist())

        def train_with_cache(cache: Path) -> dict:
            results = self.folder / "trained"
            shutil.rmtree(results, ignore_errors=True)
            return self.train(results, cache)

        def probes(results: Path) -> list[str]:
            return [
                dump_record(one.read())
                for one in find_probes_in_results(results, [run_id]).about(DriftRecord, [run_id])
            ]

        return {
            "checkpoint": ("stopped", beside(CHECKPOINT_FILE), self.train),
            "record": ("whole", beside(RECORD_FILE), record),
            "history": ("whole", beside(HISTORY_FILE), lambda results: load_history(run_id, results).to_csv()),
            "predictions": ("whole", beside(PREDICTIONS_FILE), predictions),
            "probes": ("whole", beside("probes.jsonl"), probes),
            "config.yaml": ("whole", beside(CONFIG_FILE), config),
            "kept weights": (
                "whole",
                lambda folder: sorted(run_folder(folder, run_id).glob(f"{LAST_FOLDER}/*")),
                weights,
            ),
            "token cache": ("cache", lambda folder: sorted(folder.glob("*.tokens")), train_with_cache),
            "file of records": (
                "records",
                lambda folder: [folder / "records.jsonl"],
                lambda folder: [dump_record(one) for one in read_records_file(folder / "records.jsonl")],
            ),
        }

    def damage(self, cases: int, seed: int) -> Tally:
        """Damages one file a case, the kinds in turn."""
        tally = Tally({"cases": 0, "noticed": 0, "harmless": 0, "silent": 0, "stack traces": 0})
        uses = self.uses()
        sound = {kind: use(self.copy(name)) for kind, (name, _, use) in uses.items()}
        for number in range(cases):
            kind = list(uses)[number % len(uses)]
            name, find, use = uses[kind]
            draw = random.Random(f"damage {seed} {number}")
            folder = self.copy(name)
            path = draw.choice(find(folder))
            done = damage_file(path, draw)
            case = f"damage, seed {seed}, case {number}, {kind}: {done}"
            tally.add("cases")
            tally.add(f"cases of {kind}")
            with notices() as told:
                try:
                    found = use(folder)
                except UserError:
                    tally.add("noticed")
                    continue
                except Exception as error:
                    tally.add("stack traces")
                    tally.bad.append(f"{case}: {error!r}"[:1000])
                    continue
            if found != sound[kind] and (not told or kind in COMPUTED):
                tally.add("silent")
                tally.bad.append(f"{case}: something else was {'computed' if told else 'read without a word'}")
            else:
                tally.add("noticed" if told else "harmless")
        return tally
