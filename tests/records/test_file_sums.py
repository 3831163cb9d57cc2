"""Files beside a record: every one is summed, damage is seen by whoever reads it, and a sweep repairs it."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.training_runs import train_run

from stableft.config.planned_run import Execution, InLoopProbes
from stableft.errors import UserError
from stableft.probes.saved_runs import weights_folder
from stableft.python_api import load_history
from stableft.records.file_sums import RETRAIN_ADVICE, find_damaged
from stableft.records.probe_record import PROBES_FILE, DriftRecord, find_probes_in_results
from stableft.records.run_record import (
    CONFIG_FILE,
    HISTORY_FILE,
    LAST_FOLDER,
    PREDICTIONS_FILE,
    RECORD_FILE,
    read_record,
    run_folder,
    write_record,
)
from stableft.sweep.state import CRASH_FILE, find_missing_outputs, run_under_claim
from stableft.training.outputs import RUN_FILES

pytestmark = pytest.mark.faults
SMALL_FILES = (CONFIG_FILE, HISTORY_FILE, PREDICTIONS_FILE, PROBES_FILE)


@pytest.fixture(scope="module")
def trained(toy_run, toy_sources, tmp_path_factory):
    """Returns two finished runs, and the results folder with all that they can leave."""
    results = tmp_path_factory.mktemp("trained")
    runs = [replace(toy_run(seeds={"init": s, "data": s}), probes=InLoopProbes(drift=1)) for s in (1, 2)]
    for run in runs:
        train_run(run, results, toy_sources, save="all")
    return runs, results


@pytest.fixture
def kept(trained, tmp_path):
    """Returns the first of the runs, its record, the results folder, which may be damaged, and the run's folder."""
    runs, results = trained
    shutil.copytree(results, tmp_path / "results")
    record = read_record(tmp_path / "results", runs[0].run_id)
    assert record
    return runs[0], record, tmp_path / "results", run_folder(tmp_path / "results", runs[0].run_id)


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def repeat_under_claim(run, record, results, sources):
    """Does what a worker does of a sweep with --complete."""
    train = lambda: train_run(run, results, sources, save="all")  # noqa: E731
    return run_under_claim(run, results, record, train, lambda: None)


def test_every_file_is_summed_and_the_record_says_no_more_than_that(kept):
    _, record, _, folder = kept
    assert record.files
    assert set(record.files) == set(RUN_FILES) == {path.name for path in folder.iterdir()} - {RECORD_FILE}
    assert find_damaged(folder, record.files) == []
    assert "commits" not in json.loads((folder / RECORD_FILE).read_text())


def test_a_folder_may_move(kept, tmp_path):
    _, record, results, _ = kept
    shutil.move(results, tmp_path / "elsewhere")
    assert find_damaged(run_folder(tmp_path / "elsewhere", record.run_id), record.files) == []
    assert len(load_history(record.run_id, tmp_path / "elsewhere")) == record.steps


@pytest.mark.parametrize("name", SMALL_FILES)
def test_no_flipped_bit_and_no_cut_end_of_a_small_file_is_missed(kept, name):
    run, record, results, folder = kept
    content, draw = (folder / name).read_bytes(), random.Random(0)
    for number in range(40):
        if number % 4:
            flip(folder / name, draw)
        else:
            (folder / name).write_bytes(content[: draw.randrange(len(content))])
        assert find_damaged(folder, record.files) == [name]
        if name != PROBES_FILE:
            missing = find_missing_outputs(results, run, record, Execution())
            assert missing == (f"an intact {folder / name}",)
        (folder / name).write_bytes(content)
    assert find_missing_outputs(results, run, record, Execution()) == ()


def test_no_flipped_bit_of_weights_is_used(kept):
    run, record, results, folder = kept
    draw, files = random.Random(0), sorted((folder / LAST_FOLDER).iterdir())
    assert weights_folder(results, record, "last") == folder / LAST_FOLDER
    for path in (*files, *[folder / LAST_FOLDER / "model.safetensors"] * 10):
        content = path.read_bytes()
        flip(path, draw)
        with pytest.raises(UserError) as caught:
            weights_folder(results, record, "last")
        assert str(caught.value) == (
            f"{folder / LAST_FOLDER} does not match its checksum in the run's record: it is damaged; {RETRAIN_ADVICE}"
        )
        # A sweep hashes weights only where it repairs them.
        assert find_missing_outputs(results, run, record, Execution(save="all")) == ()
        whole = Execution(save="all", retrain_incomplete=True)
        assert find_missing_outputs(results, run, record, whole) == (f"an intact {folder / LAST_FOLDER}",)
        path.write_bytes(content)
    assert weights_folder(results, record, "last")


def test_files_of_another_run_are_seen(trained, kept, caplog):
    (_, other), source = trained
    _, record, results, folder = kept
    for name in (HISTORY_FILE, PROBES_FILE):
        shutil.copy(run_folder(source, other.run_id) / name, folder / name)
    with pytest.raises(UserError, match=f"{HISTORY_FILE} does not match its checksum"):
        load_history(record.run_id, results)
    assert find_probes_in_results(results, [record.run_id, other.run_id]).about(DriftRecord, [record.run_id]) == []
    assert caplog.messages[0].startswith(f"{folder / PROBES_FILE} does not match its checksum")


def test_a_history_that_is_no_text_is_refused_with_and_without_a_checksum(kept):
    _, record, results, folder = kept
    content = bytearray((folder / HISTORY_FILE).read_bytes())
    content[40] |= 128
    (folder / HISTORY_FILE).write_bytes(content)
    with pytest.raises(UserError, match=f"{HISTORY_FILE} does not match its checksum"):
        load_history(record.run_id, results)
    write_record(results, record.model_copy(update={"files": None}))
    with pytest.raises(UserError, match=f"{HISTORY_FILE} is damaged: 'utf-8' codec can't decode byte"):
        load_history(record.run_id, results)


def test_probes_with_a_line_less_are_left_out(kept, caplog):
    _, record, results, folder = kept
    assert len(find_probes_in_results(results, [record.run_id]).refs) == 1
    (folder / PROBES_FILE).write_text("")
    assert find_probes_in_results(results, [record.run_id]).refs == ()
    assert "it is damaged" in caplog.text


def test_an_older_record_says_nothing_of_its_files(kept):
    run, record, results, folder = kept
    older = record.model_copy(update={"files": None})
    write_record(results, older)
    assert '"files"' not in (folder / RECORD_FILE).read_text()
    flip(folder / CONFIG_FILE, random.Random(0))
    assert find_missing_outputs(results, run, older, Execution(retrain_incomplete=True)) == ()
    assert len(load_history(record.run_id, results)) == record.steps


def test_a_sweep_sets_damage_aside_and_repeats_the_run(kept, toy_sources):
    run, record, results, folder = kept
    whole = {name: (folder / name).read_bytes() for name in SMALL_FILES}
    damaged = [*SMALL_FILES, LAST_FOLDER]
    for name in damaged:
        flip(folder / name / "model.safetensors" if name == LAST_FOLDER else folder / name, random.Random(1))
    bad = (folder / HISTORY_FILE).read_bytes()
    again = repeat_under_claim(run, record, results, toy_sources)
    assert again
    assert again.files == record.files
    assert find_damaged(folder, record.files) == []
    assert (folder / f"{HISTORY_FILE}.damaged-1").read_bytes() == bad
    assert {path.name for path in folder.glob("*.damaged-*")} == {f"{name}.damaged-1" for name in damaged}
    assert {name: (folder / name).read_bytes() for name in SMALL_FILES} == whole
    with np.load(folder / PREDICTIONS_FILE) as arrays:
        assert "val_last" in arrays


def test_a_missing_history_is_made_again_if_asked(kept):
    run, record, results, folder = kept
    (folder / HISTORY_FILE).unlink()
    assert find_missing_outputs(results, run, record, Execution()) == ()
    assert find_missing_outputs(results, run, record, Execution(retrain_incomplete=True)) == ("history",)


def test_the_text_of_an_earlier_crash_does_not_stay_beside_a_finished_record(kept, toy_sources):
    run, _, results, folder = kept
    (folder / RECORD_FILE).unlink()
    (folder / CRASH_FILE).write_text("Traceback")
    record = repeat_under_claim(run, None, results, toy_sources)
    assert record
    assert record.status == "finished"
    assert not (folder / CRASH_FILE).exists()
