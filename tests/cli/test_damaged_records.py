"""Every command that reads a results folder leaves a damaged record out, says so on stderr, and goes on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import make_scored_record
from support.table_records import make_imported

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.python_api import load_records
from stableft.records.run_record import RECORD_FILE, read_records_file, run_folder, write_record, write_records_file

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("workplace")]
SWEEP = """\
task: rte
model: org/tiny
arms: [{recipe: devlin}, {recipe: mosbach}]
seeds: 1-4
"""


@pytest.fixture
def damaged() -> Path:
    """Writes a sweep's records to ./results, and flips a bit in one; returns its path."""
    Path("mine.yaml").write_text(SWEEP)
    runs = load_sweep("mine.yaml", LocalPaths()).runs
    for number, run in enumerate(runs):
        run_folder(Path("results"), run.run_id).mkdir(parents=True)
        write_record(Path("results"), make_scored_record(run, 0.6 + number / 100))
    path = run_folder(Path("results"), runs[0].run_id) / RECORD_FILE
    content = bytearray(path.read_bytes())
    content[content.index(b'"seconds":1.0') + 10] ^= 8
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            ("report", "mine.yaml", "--notes"),
            "7 of 8 runs of this project are there",
        ),
        (("report", "mine.yaml", "--format", "json", "--out", "out.json"), ""),
        (("report", "all"), ""),
        (("export", "mine.yaml", "--out", "out.jsonl"), "wrote 7 records of 8 runs"),
        (("export", "mine.yaml", "--out", "out.csv"), "wrote 7 of 8 runs"),
        (("compare", "devlin", "mosbach"), "devlin"),
        (("list", "artifacts"), "mosbach-table1"),
    ],
)
def test_a_damaged_record_is_left_out_with_a_warning(stableft, papers_sweeps, damaged, caplog, command, shown):
    before = damaged.read_bytes()
    code, out, _ = stableft(*command)
    assert code == 0
    assert shown in out
    first = caplog.messages[0]
    assert first.startswith(f"{damaged} does not match its checksum: ")
    assert first.endswith(": left out; the next `stableft sweep` with this run sets it aside and repeats the run")
    assert damaged.read_bytes() == before


@pytest.mark.slow
def test_warnings_come_out_on_stderr(damaged):
    command = [sys.executable, "-m", "stableft", "export", "mine.yaml", "--out", "out.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "wrote 7 records of 8 runs to out.jsonl\n")
    assert done.stderr.startswith(f"{damaged} does not match its checksum: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("status",), ("status", "mine.yaml")])
def test_status_names_a_damaged_record(stableft, damaged, command):
    code, out, _ = stableft(*command)
    assert code == 0
    assert f"{damaged} does not match its checksum: " in out


def test_records_in_python(damaged, caplog):
    assert len(load_records("results")) == 7
    assert caplog.messages[0].startswith(f"{damaged} does not match its checksum")


def test_a_record_of_another_config_is_left_out(stableft, damaged, caplog):
    """Its checksum is right, as of a run whose config was edited with the tools of this project."""
    runs = load_sweep("mine.yaml", LocalPaths()).runs
    record = make_scored_record(runs[1]).model_copy(update={"run_id": runs[0].run_id})
    write_record(Path("results"), record)
    code, out, _ = stableft("export", "mine.yaml", "--out", "out.jsonl")
    assert (code, "wrote 7 records" in out) == (0, True)
    assert (
        f"{damaged} has run_id {runs[0].run_id}, but its config is that of run {runs[1].run_id}: left out"
        in caplog.text
    )


def test_a_damaged_line_of_imported_runs_is_left_out(stableft, papers_sweeps, damaged, caplog):
    folder = Path("results/records")
    folder.mkdir()
    path = folder / "theirs.jsonl"
    write_records_file(path, [make_imported(arm="zhang", seed=seed) for seed in range(5)])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1].replace('"seed":1', '"seed":7'), *lines[2:]]))
    code, out, _ = stableft("list", "artifacts")
    assert code == 0
    assert "4 imported" in out
    assert f"{path}:2 does not match its checksum" in caplog.text
    with pytest.raises(ValueError, match="does not match"):  # a file that is named is read whole or not at all
        list(read_records_file(path))


def test_a_renamed_model_folder_is_one_model(stableft, damaged):
    damaged.unlink()
    runs = load_sweep("mine.yaml", LocalPaths()).runs
    shutil.rmtree("results")
    for number, run in enumerate(runs):
        model = run.config.model.model_copy(
            update={"name": f"folder-{number % 2}", "revision": None, "sha256": "a" * 64}
        )
        config = run.config.model_copy(update={"model": model})
        record = make_scored_record(run).model_copy(update={"config": config, "run_id": config.run_id})
        run_folder(Path("results"), config.run_id).mkdir(parents=True)
        write_record(Path("results"), record)
    code, out, _ = stableft("status")
    assert code == 0
    assert sorted(line.split()[:4] for line in out.splitlines()[1:3]) == [
        ["devlin", "rte", "folder-0", "4"],
        ["mosbach", "rte", "folder-0", "4"],
    ]
    code, out, err = stableft("compare", "devlin", "mosbach", "--format", "json")
    assert (code, err) == (0, "")
    assert {arm["n"] for arm in json.loads(out)["arms"]} == {4}
