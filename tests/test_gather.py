"""Which records belong to which runs of a report: by id, and by arm, task and seeds when they were imported."""

import pytest
from test_frame import make_record

from stableft.errors import UserError
from stableft.plan import PlannedRun, Sources
from stableft.record import write_records_file
from stableft.report.artifact import sweep_artifact
from stableft.report.gather import planned_runs, report_of, table_of
from stableft.sweepfile import load_sweep


def planned(records, arm="devlin"):
    return [PlannedRun(arm, "devlin", record.config) for record in records]


def scores(table):
    return {(cell.row, cell.summary.n, cell.planned) for cell in table.cells}


def test_a_record_belongs_to_a_run_by_its_id():
    records = [make_record(seed=seed) for seed in range(1, 6)]
    other_rate = [make_record(seed=seed, lr=3e-5) for seed in range(1, 6)]
    table = report_of(sweep_artifact("s", "s.yaml"), planned(records)[:3], [*records, *other_rate])
    assert scores(table) == {("devlin", 3, 3)}
    table = report_of(sweep_artifact("s", "s.yaml"), planned(records)[:3], other_rate)
    assert scores(table) == {("devlin", 0, 3)}


def test_an_imported_record_belongs_to_the_arm_task_and_seed_it_came_as():
    runs = planned([make_record(seed=seed) for seed in range(1, 4)])
    imported = [make_record(arm="devlin", seed=seed, lr=9e-5, source="elsewhere.csv") for seed in range(1, 6)]
    table = report_of(sweep_artifact("s", "s.yaml"), runs, imported)
    assert scores(table) == {("devlin", 3, 3)}
    assert any("not this project's runs" in note for note in table.footnotes)


def test_two_arms_may_report_different_checkpoints_of_one_run():
    records = [make_record(seed=seed) for seed in range(1, 4)]
    best = [
        record.config.model_copy(update={"evaluation": record.config.evaluation.model_copy(update={"report": "best"})})
        for record in records
    ]
    runs = planned(records) + [PlannedRun("same, best", "devlin", config) for config in best]
    assert {run.run_id for run in runs} == {record.run_id for record in records}
    table = report_of(sweep_artifact("s", "s.yaml"), runs, records)
    assert {cell.row: cell.checkpoint for cell in table.cells} == {"devlin": "last", "same, best": "best"}


def test_an_artifact_is_the_runs_of_its_sweeps():
    artifact, runs = planned_runs("mosbach-table1", lambda path: load_sweep(path, Sources()))
    assert artifact.id == "mosbach-table1"
    assert len(runs) == 225
    with pytest.raises(UserError, match="did you mean 'mosbach-table1'"):
        planned_runs("mosbach-tabel1", lambda path: load_sweep(path, Sources()))


def test_a_report_without_any_run_says_how_many_are_planned(tmp_path):
    table = table_of("mosbach-table1", tmp_path, [], "recipe", lambda path: load_sweep(path, Sources()))
    assert {(cell.summary.n, cell.planned) for cell in table.cells} == {(0, 25)}


def test_a_file_of_records_reports_by_itself(tmp_path):
    records = [make_record(arm=arm, seed=seed) for arm in ("devlin", "mosbach") for seed in range(1, 4)]
    write_records_file(tmp_path / "mine.jsonl", records[:3])
    table = table_of(str(tmp_path / "mine.jsonl"), tmp_path, [], "recipe")
    assert scores(table) == {("devlin", 3, 3)}
    assert table.artifact.id == "mine"
