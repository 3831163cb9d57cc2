"""What the short commands print."""

import json
import re
from pathlib import Path

import pytest
from support.artifact_probes import drift, grad_norms, surface
from support.sweep_records import make_record, make_run, save_record
from support.table_records import make_imported

from stableft.catalog.model_families import BACKBONES
from stableft.catalog.tasks import TASKS
from stableft.cli.sweep_commands import (
    export_records,
    list_artifacts,
    list_names,
    print_report,
    render_folder_status,
    render_runs,
    render_sweep_status,
)
from stableft.config.planned_run import LocalPaths
from stableft.config.recipe import shipped_recipes
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.errors import UserError
from stableft.records.probe_record import PROBES_FILE, PROBES_FOLDER, read_probe_records, write_probe_records
from stableft.records.run_record import (
    CHECKPOINT_FILE,
    Scores,
    read_records_file,
    run_folder,
    write_records_file,
)


def make_sweep(*runs) -> Sweep:
    return Sweep("s", Path("s.yaml"), runs, LocalPaths())


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.fixture
def landed(tmp_path) -> tuple[Sweep, Path]:
    """Returns a sweep of six runs, one of each kind of status."""
    runs = [make_run(seed) for seed in range(6)]
    save_record(tmp_path, make_record(runs[0]))
    save_record(tmp_path, make_record(runs[1], failed=True))
    save_record(tmp_path, make_record(runs[2], status="crashed"))
    run_folder(tmp_path, runs[3].run_id).mkdir()
    (run_folder(tmp_path, runs[3].run_id) / CHECKPOINT_FILE).write_bytes(b"")
    save_record(tmp_path, make_record(runs[4]))
    (run_folder(tmp_path, runs[4].run_id) / "record.json").write_text("{")
    return make_sweep(*runs), tmp_path


@pytest.mark.parametrize(
    ("what", "names"),
    [("tasks", TASKS), ("backbones", BACKBONES), ("recipes", shipped_recipes())],
)
def test_every_name_has_a_line(what, names):
    lines = list_names(what).splitlines()
    assert {line.split()[0] for line in lines[1:]} >= set(names)
    assert not any(line.endswith(" ") for line in lines)


def test_every_artifact_has_a_line_with_what_feeds_it_and_how_many_runs_are_there(papers_sweeps, tmp_path):
    runs = load_sweep("mosbach/table1.yaml", LocalPaths()).runs
    for run in runs[:3]:  # of devlin on RTE
        save_record(tmp_path, make_record(run))
    save_record(tmp_path, make_record(runs[3], status="crashed"))
    lines = {line.split()[0]: line for line in list_artifacts(tmp_path, []).splitlines()[1:]}
    assert len(lines) == 18 + 25
    assert re.search(r"3 of 225 +configs/mosbach/table1.yaml$", lines["mosbach-table1"])
    assert "3 of 50" in lines["mosbach-figure14"]  # the same runs
    assert re.search(r"- +the recipes$", lines["zhang-table6"])
    assert "configs/zhang/drift.yaml; needs probes (0 found)" in lines["zhang-figure16"]
    assert "; some parts need probes (0 found)" in lines["mosbach-figure2"]


def test_imported_runs_are_counted_apart(papers_sweeps, tmp_path):
    write_records_file(tmp_path / "theirs.jsonl", [make_imported(arm="zhang", seed=seed) for seed in range(50)])
    lines = {line.split()[0]: line for line in list_artifacts(tmp_path, [tmp_path / "theirs.jsonl"]).splitlines()}
    assert "0 of 100, 50 imported" in lines["zhang-figure3"]
    assert lines["zhang-figure3"].endswith("; imported from elsewhere.csv")
    assert not any("imported" in lines[name] for name in ("zhang-table4", "zhang-figure1", "zhang-figure9"))
    (tmp_path / "records").mkdir()
    (tmp_path / "theirs.jsonl").rename(tmp_path / "records" / "theirs.jsonl")
    assert list_artifacts(tmp_path, []).splitlines() == list(lines.values())


def test_runs_as_a_table_and_as_json():
    sweep = make_sweep(make_run(1), make_run(2))
    text = render_runs(sweep, "text").splitlines()
    assert text[1].split() == [sweep.runs[0].run_id, "arm", "recipe", "rte", "bert-tiny", "1", "1"]
    assert text[-1] == "2 runs"
    objects = [json.loads(line) for line in render_runs(sweep, "json").splitlines()]
    assert [thing["run_id"] for thing in objects] == [run.run_id for run in sweep.runs]
    assert objects[0]["config"]["optimizer"]["lr"] == 2e-5


def test_the_status_of_a_sweep(landed):
    sweep, results = landed
    header, row, note, damaged = render_sweep_status(sweep, results).splitlines()
    assert header.split() == "arm task finished failed crashed stopped checkpoint to do damaged".split()
    assert row.split() == ["arm", "rte", "2", "1", "1", "0", "1", "1", "1"]
    assert note.startswith("failed: finished, but ")
    assert re.search(r"record\.json is not a complete record", damaged)


def test_looking_changes_nothing(landed):
    sweep, results = landed
    before = sorted(results.rglob("*"))
    render_sweep_status(sweep, results)
    render_folder_status(results)
    assert sorted(results.rglob("*")) == before
    render_sweep_status(sweep, results / "nowhere")
    assert not (results / "nowhere").exists()


def test_the_status_of_a_folder(landed):
    sweep, results = landed
    (results / "runs" / ".DS_Store").write_text("what a file manager leaves")
    lines = render_folder_status(results).splitlines()
    assert lines[1].split() == ["arm", "rte", "bert-tiny", "2", "1", "1", "0"]
    assert lines[2] == f"1 unfinished: {sweep.runs[3].run_id}"
    assert "is not a complete record" in lines[3]
    with pytest.raises(UserError, match="this folder contains no runs"):
        render_folder_status(results / "nowhere")


def test_an_unchanged_report_is_printed_again_and_not_made_again(tmp_path, monkeypatch, capsys):
    runs = [make_run(seed) for seed in range(4)]
    scores = Scores(step=6, val={"accuracy": 0.7}, test=None)
    records = [make_record(run).model_copy(update={"last": scores, "best": scores}) for run in runs]
    for record in records[:3]:
        save_record(tmp_path, record)
    (tmp_path / "s.yaml").write_text("task: rte")
    sweep = Sweep("s", tmp_path / "s.yaml", tuple(runs), LocalPaths())

    def files() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "sweeps" / "s").glob("[!.]*")}

    def report() -> str:
        print_report(sweep, tmp_path)
        return capsys.readouterr().out

    first, made = report(), files()
    assert "scores.png" in first
    assert report() == first
    assert files() == made
    monkeypatch.setenv("COLUMNS", "77")
    assert report()
    assert files().keys() == made.keys()
    assert [name for name, at in files().items() if at <= made[name]] == []
    made = files()
    save_record(tmp_path, records[3])
    assert report() != first
    assert files() != made
    (tmp_path / "sweeps" / "s" / "scores.png").unlink()
    report()
    assert "scores.png" in files()


def test_records_are_exported_under_the_names_of_the_sweep(tmp_path):
    run = make_run(1, arm="first")
    save_record(tmp_path, make_record(run))
    sweep = make_sweep(make_run(1, arm="second"), make_run(2, arm="second"))
    sentence = export_records(sweep, tmp_path, tmp_path / "out.jsonl")
    assert sentence == f"wrote 1 records of 2 runs to {tmp_path / 'out.jsonl'}"
    assert [(record.arm, record.run_id) for record in read_records_file(tmp_path / "out.jsonl")] == [
        ("second", run.run_id)
    ]


def test_what_probes_left_is_exported_after_the_runs_it_is_about(tmp_path):
    runs = [make_run(seed) for seed in range(3)]
    ids = [run.run_id for run in runs]
    for run in runs:
        save_record(tmp_path, make_record(run))
    write_probe_records(run_folder(tmp_path, ids[0]) / PROBES_FILE, [drift(ids[0], 0, [0, 1, 2], 2)])
    norms = grad_norms(ids[2], "bert", True, [1, 2], layers=2)
    write_probe_records(run_folder(tmp_path, ids[2]) / PROBES_FILE, [norms])
    within, beyond = surface(ids[0], ids[1], "rte", 3), surface(ids[0], ids[2], "rte", 3)
    write_probe_records(tmp_path / PROBES_FOLDER / "a" / PROBES_FILE, [within])
    write_probe_records(tmp_path / PROBES_FOLDER / "b" / PROBES_FILE, [beyond])
    out = tmp_path / "out.jsonl"
    sentence = export_records(make_sweep(*runs[:2]), tmp_path, out)
    assert sentence == f"wrote 2 records of 2 runs to {out}, plus 2 probe records (drift: 1, surfaces: 1)"
    assert [record.run_id for record in read_records_file(out)] == ids[:2]
    assert list(read_probe_records(out)) == [drift(ids[0], 0, [0, 1, 2], 2), within]
    assert ["probe" in json.loads(line) for line in out.read_text().splitlines()] == [False, False, True, True]


def test_an_artifact_of_probes_has_the_number_of_their_records(papers_sweeps, tmp_path):
    runs = load_sweep("zhang/drift.yaml", LocalPaths()).runs
    of_rte = [run for run in runs if run.config.data.task == "rte"]
    for run in of_rte[:3]:
        save_record(tmp_path, make_record(run))
        write_probe_records(run_folder(tmp_path, run.run_id) / PROBES_FILE, [drift(run.run_id, 0, [0, 1], 2)])
    lines = {line.split()[0]: line for line in list_artifacts(tmp_path, []).splitlines()[1:]}
    assert "; needs probes (3 found)" in lines["zhang-figure7"]
    assert "; needs probes (3 found)" in lines["zhang-figure15"]
    assert "; needs probes (0 found)" in lines["zhang-figure16"]  # of another task


def test_nothing_to_export(tmp_path):
    with pytest.raises(UserError, match=r"no records .* 1 runs"):
        export_records(make_sweep(make_run(1)), tmp_path, tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []
