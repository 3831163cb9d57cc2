"""Which records belong to which runs of a report: by id, and by arm and task when they were imported."""

import re
from dataclasses import replace

import pytest
from support.paths import ROOT
from support.reports import mean_cells, values_of
from support.table_records import make_imported, make_record

from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.sweep_file import load_sweep
from stableft.errors import UserError
from stableft.records.run_record import read_records_file, write_records_file
from stableft.report.artifact import make_sweep_artifact
from stableft.report.build import build_report
from stableft.report.footnotes import cell_footnotes
from stableft.report.forms.write import render_report
from stableft.report.runs import as_means_table, collect_runs, load_artifact, load_runs, load_runs_from_file
from stableft.report.stability_results import compute_stability


def compute_stability_of(runs):
    return compute_stability(runs.artifact.parts[0], runs)


def planned(records, arm="devlin"):
    return [("s.yaml", PlannedRun(arm, "devlin", record.config, record.report)) for record in records]


def table_of(runs, records):
    return compute_stability_of(collect_runs(make_sweep_artifact("s", "s.yaml"), runs, records))


def scores(table):
    return {(cell.arm, cell.summary.n, cell.planned) for cell in table.cells}


def test_a_record_belongs_to_a_run_by_its_id():
    records = [make_record(seed=seed) for seed in range(1, 6)]
    other_rate = [make_record(seed=seed, lr=3e-5) for seed in range(1, 6)]
    assert scores(table_of(planned(records)[:3], [*records, *other_rate])) == {("devlin", 3, 3)}
    assert scores(table_of(planned(records)[:3], other_rate)) == {("devlin", 0, 3)}


def test_an_imported_run_belongs_to_the_arm_and_task_it_came_as_whatever_its_seed():
    runs = planned([make_record(seed=seed) for seed in range(1, 4)])
    imported = [make_imported(arm="devlin", seed=seed) for seed in range(5)]
    others = [make_imported(arm="mosbach", seed=0), make_imported(arm="devlin", task="mrpc", seed=0)]
    found = collect_runs(make_sweep_artifact("s", "s.yaml"), runs, [*imported, *others])
    table = compute_stability_of(found)
    assert scores(table) == {("devlin (imported: elsewhere.csv)", 5, None)}
    assert any(re.search(r"devlin on RTE \(5\) .*not this project's", note) for note in table.footnotes)
    assert found.unmatched_imports == ("mosbach on rte", "devlin on mrpc")


def test_curves_and_environments_are_kept_and_records_are_read_once():
    records = [make_record(seed=seed) for seed in range(1, 4)]
    found = collect_runs(make_sweep_artifact("s", "s.yaml"), planned(records), iter(records))
    assert found.curves[records[0].run_id, None] == ((9, 0.25, 0.7),)
    assert len(found.curves) == 3
    assert found.environments == {}


def test_two_arms_may_report_different_checkpoints_of_one_run():
    records = [make_record(seed=seed) for seed in range(1, 4)]
    best = [("s.yaml", PlannedRun("same, best", "devlin", record.config, "best")) for record in records]
    runs = planned(records) + best
    table = table_of(runs, records)
    assert {cell.arm: cell.checkpoint for cell in table.cells} == {"devlin": "last", "same, best": "best"}


def shipped(path):
    return load_sweep(path, LocalPaths())


def test_an_artifact_is_the_runs_of_its_sweeps():
    artifact, runs = load_artifact("mosbach-table1", shipped)
    assert artifact.id == "mosbach-table1"
    assert len(runs) == 225
    with pytest.raises(UserError, match="did you mean 'mosbach-table1'"):
        load_artifact("mosbach-tabel1", shipped)


def test_of_a_shared_sweep_an_artifact_has_the_runs_that_it_shows():
    _, runs = load_artifact("zhang-figure3", shipped)
    assert {(run.arm, run.config.data.task) for _, run in runs} == {("zhang-bertadam", "rte"), ("zhang", "rte")}
    searched = {run.arm for _, run in load_artifact("zhang-table2", shipped)[1]}
    assert "llrd lr=2e-05, llrd=0.9" in searched


def test_a_report_without_any_run_says_how_many_are_planned_and_what_makes_them(tmp_path):
    runs = load_runs("mosbach-table1", tmp_path, [], "recipe", shipped)
    assert {(cell.summary.n, cell.planned) for cell in compute_stability_of(runs).cells} == {(0, 25)}
    assert any("`stableft sweep configs/mosbach/table1.yaml`" in str(block) for block in build_report(runs).blocks)


def test_a_file_of_records_reports_by_itself(tmp_path):
    records = [make_record(arm=arm, seed=seed) for arm in ("devlin", "mosbach") for seed in range(1, 4)]
    write_records_file(tmp_path / "mine.jsonl", records[:3])
    table = compute_stability_of(load_runs(str(tmp_path / "mine.jsonl"), tmp_path, [], "recipe"))
    assert scores(table) == {("devlin", 3, 3)}
    assert table.artifact.id == "mine"


def test_imported_runs_of_a_metric_of_their_own_are_reported(tmp_path):
    write_records_file(
        tmp_path / "x.jsonl", [make_imported(task="own", metric="score", seed=seed) for seed in range(4)]
    )
    text = render_report(build_report(load_runs(str(tmp_path / "x.jsonl"), tmp_path, [], "recipe")))
    assert "## own: score in percent, test split, last checkpoint" in text


def test_an_artifact_shows_the_imported_runs_of_the_results_folder_and_with_files_only_theirs(tmp_path):
    (tmp_path / "records").mkdir()
    imported = [make_imported(arm=arm, seed=seed) for arm in ("zhang", "unknown") for seed in range(5)]
    write_records_file(tmp_path / "records" / "b.jsonl", imported)
    write_records_file(tmp_path / "records" / "a.jsonl", [make_record(arm="zhang", seed=1)])
    write_records_file(tmp_path / "c.jsonl", [make_imported(arm="zhang-reinit", seed=0), *imported[5:]])

    def shown(name, files=()):
        runs = load_runs(name, tmp_path, list(files), "recipe", shipped)
        return {(arm, len(rows)) for (arm, _), rows in runs.by_arm_task.items() if rows}, runs.unmatched_imports

    assert shown("zhang-table1") == ({("zhang (imported: elsewhere.csv)", 5)}, ())
    assert shown("zhang-table1", [tmp_path / "c.jsonl"]) == (
        {("zhang-reinit (imported: elsewhere.csv)", 1)},
        ("unknown on rte",),
    )
    assert shown("zhang-figure1") == shown("zhang-figure9") == (set(), ())
    assert shown("configs/zhang/table1.yaml") == (set(), ())


def test_in_a_file_imported_runs_are_named_where_another_origin_has_their_arm(tmp_path):
    own = [make_record(arm="devlin", seed=seed) for seed in range(1, 4)]
    imported = [make_imported(arm=arm, seed=seed) for arm in ("devlin", "mosbach") for seed in range(5)]
    write_records_file(tmp_path / "x.jsonl", [*own, *imported])
    table = compute_stability_of(load_runs(str(tmp_path / "x.jsonl"), tmp_path, [], "recipe"))
    assert scores(table) == {("devlin", 3, 3), ("devlin (imported: elsewhere.csv)", 5, None), ("mosbach", 5, None)}


def test_imported_runs_are_set_beside_the_published_values_of_their_arm(tmp_path):
    write_records_file(tmp_path / "x.jsonl", [make_imported(arm="mosbach", seed=seed) for seed in range(5)])
    for name in ("mosbach-table1", "configs/mosbach/table1.yaml"):
        table = compute_stability_of(load_runs(name, tmp_path, [tmp_path / "x.jsonl"], "recipe", shipped))
        places = {c.against for c in table.comparisons if c.published and "imported" in c.arm}
        assert any("Table 1" in place for place in places), name


def test_a_rule_of_the_papers_makes_a_table_of_means_of_a_sweep_but_not_of_an_artifact(tmp_path):
    records = [make_record(arm="devlin", seed=seed, last=0.7 + seed / 100) for seed in range(1, 4)]
    runs = collect_runs(make_sweep_artifact("s", "s.yaml"), planned(records), records)
    (cell,) = mean_cells(values_of(build_report(as_means_table(runs, "best")))).values()
    assert (cell["arm"], cell["n"], cell["mean"]) == ("devlin", 3, pytest.approx(0.72))
    with pytest.raises(UserError, match="mosbach-table1 uses the paper's own rule"):
        as_means_table(load_runs("mosbach-table1", tmp_path, [], "recipe", shipped), "best")


def test_a_cell_counts_failed_runs_by_chance_and_as_the_paper_defines_them():
    def record(mcc, accuracy, seed):
        made = make_record(task="cola", last=mcc, seed=seed)  # 400 rows: MCC fails up to .08225
        assert made.last
        assert made.data
        last = made.last.model_copy(update={"val": {"mcc": mcc, "accuracy": accuracy}})
        data = made.data.model_copy(update={"baselines": {"val": {"mcc": 0.0, "accuracy": 0.69}}})
        return made.model_copy(update={"last": last, "data": data})

    records = [record(0.0822, 0.70, 1), record(0.2, 0.68, 2), record(0.4, 0.69, 3), record(0.0823, 0.70, 4)]
    found = collect_runs(make_sweep_artifact("s", "s.yaml"), planned(records), records)
    cell = found.cell("devlin", "cola")
    assert (cell.failed, cell.failed_by_accuracy, cell.failed_by_accuracy_unknown) == (1, 2, 0)
    assert (cell.baseline, cell.chance) == (0.0, pytest.approx(0.08225))
    said = "2/4 failed as M sec. 3.2 defines it (accuracy at or below the majority), 1/4 as here"
    known = replace(cell, failed_by_accuracy=1), replace(cell, failed_by_accuracy_unknown=1)
    assert [said in " ".join(cell_footnotes([c])) for c in (cell, *known)] == [True, False, False]


def test_scores_printed_as_the_baseline_leave_an_arm_in_which_most_runs_failed():
    records = [make_imported(last=0.5252, seed=seed, baseline=73 / 139, digits=4) for seed in range(3)]
    found = collect_runs(make_sweep_artifact("s", "s.yaml"), planned([make_record()], "mosbach"), records)
    cell = found.cell("mosbach (imported: elsewhere.csv)", "rte")
    assert (cell.failed, cell.mostly_failed) == (3, True)


@pytest.mark.parametrize(("best", "mostly_failed"), [(0.5252, True), (0.6, False)])
def test_the_scores_that_are_reported_say_whether_most_runs_failed(best, mostly_failed):
    """.5252 is printed of 73/139, the constant predictor's .52518, and is no better; .6 is, before the run failed."""
    given = {"baseline": 73 / 139, "digits": 4, "report": "best"}
    records = [make_imported(last=0.5252, best=best, seed=seed, **given) for seed in range(3)]
    found = collect_runs(make_sweep_artifact("s", "s.yaml"), planned([make_record()], "mosbach"), records)
    cell = found.cell("mosbach (imported: elsewhere.csv)", "rte")
    assert (cell.failed, cell.mostly_failed) == (3, mostly_failed)


def test_a_file_with_the_runs_of_a_shipped_sweep_has_its_deviations(tmp_path):
    demo = list(read_records_file(ROOT / "results/records/demo.jsonl"))
    write_records_file(tmp_path / "demo.jsonl", demo[:30])
    text = " ".join(render_report(build_report(load_runs_from_file(tmp_path / "demo.jsonl"))).split())
    assert "- Deviation in configs/demo.yaml (`optimizer.lr: 1.15e-3`): no rate of the papers." in text
    assert "about half of devlin's runs fail" in text
    other = demo[0].config.optimizer.model_copy(update={"lr": 2e-5})
    config = demo[0].config.model_copy(update={"optimizer": other})
    changed = demo[0].model_copy(update={"config": config, "run_id": config.run_id})
    write_records_file(tmp_path / "demo.jsonl", [changed])
    assert "Deviation" not in render_report(build_report(load_runs_from_file(tmp_path / "demo.jsonl")))
    write_records_file(tmp_path / "mine.jsonl", demo[:2])
    assert "Deviation" not in render_report(build_report(load_runs_from_file(tmp_path / "mine.jsonl")))
