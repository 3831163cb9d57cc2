"""Every artefact of the papers in every form: with most of its runs, without any, with someone else's, and rebuilt."""

import csv
import functools
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.artifact_records import (
    STEPS,
    M,
    Z,
    planned,
    pool,
    pool_runs,
    probe_pool,
    report,
    report_without_runs,
    scores,
    where,
)
from support.paths import GLUE
from support.reports import mean_cells, values_of

from stableft.records.run_record import ImportedEval, ImportedRun, ImportedScores, ImportSource, write_records_file
from stableft.report import all_reports as everything
from stableft.report import paper_tables as data_stats
from stableft.report.all_reports import build_all_reports
from stableft.report.build import build_report
from stableft.report.figures.style import figure_to_bytes
from stableft.report.forms.document import FOR_READERS, Picture, Report, ReportTable, Value
from stableft.report.forms.html import reports_to_html
from stableft.report.forms.write import Format, render_report, write_report_folder
from stableft.report.runs import ARTIFACTS, collect_runs

FORMS: tuple[Format, ...] = ("md", "csv", "latex", "json", "html")
DATASETS = ("mosbach-table2", "zhang-table3")
NO_RUNS = (*DATASETS, "mosbach-table3", "zhang-table6", "mosbach-figure6")
FORMULAS = ("mosbach-figure6", "zhang-figure1")
TABLES = ("mosbach-table1", "mosbach-table4", *(f"zhang-table{number}" for number in (1, 2, 4, 5, 7)))
PROBES = (
    *(f"mosbach-figure{number}" for number in (4, 7, 10, 11, 12, 13)),
    *(f"zhang-figure{number}" for number in (7, 15, 16, 17, 18)),
)
OF_RUNS = [name for name in ARTIFACTS if name not in (*NO_RUNS, *PROBES, *FORMULAS)]


def has_figures(name: str) -> bool:
    return "figure" in name or name in TABLES


def refuse(name: str):
    raise AssertionError(f"{name} is not JSON")


def words(text: str) -> str:
    return " ".join(text.split())


@functools.cache
def whole_report(name: str) -> Report:
    """The artefact out of the pool, or of the small data sets."""
    if name not in DATASETS:
        return report(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_stats, "HELD_OUT_ROWS", 6)
        return build_report(pool_runs(name), GLUE)


def strict(made: Report) -> dict[str, Any]:
    return json.loads(render_report(made, "json"), parse_constant=refuse)


def test_there_are_43_artefacts():
    assert len(ARTIFACTS) == 43
    assert {name.rpartition("-")[0] for name in ARTIFACTS} == {"mosbach", "zhang"}
    assert [name for name in ARTIFACTS if "table" in name] == [
        *(f"mosbach-table{number}" for number in range(1, 5)),
        *(f"zhang-table{number}" for number in range(1, 8)),
    ]
    numbers = {
        paper: {int(name.removeprefix(f"{paper}-figure")) for name in ARTIFACTS if name.startswith(f"{paper}-figure")}
        for paper in ("mosbach", "zhang")
    }
    assert numbers == {"mosbach": set(range(1, 15)), "zhang": set(range(1, 19))}


@pytest.mark.parametrize("name", ARTIFACTS)
def test_every_form_says_what_it_is(name):
    made = whole_report(name)
    texts = {form: render_report(made, form) for form in FORMS if form != "html"}
    assert texts["md"].startswith(f"# {ARTIFACTS[name].title}\n")
    values = json.loads(texts["json"], parse_constant=refuse)
    assert (values["report"], values["title"]) == (name, ARTIFACTS[name].title)
    for grid in made.tables:
        assert rf"\label{{tab:{grid.name}}}" in texts["latex"]
    lines = list(csv.reader(io.StringIO(texts["csv"])))
    tables = [table for table in made.data.values() if table.only != "json"]
    rows = sum(row.kind != FOR_READERS for table in tables for row in table.rows)
    assert len(lines) == (rows + 1 if rows else 0)
    assert len({len(line) for line in lines}) <= 1
    assert rows
    assert bool(made.figures) == has_figures(name)


@pytest.mark.parametrize("name", [name for name in ARTIFACTS if not has_figures(name)])
def test_html_of_tables_has_no_figure(name):
    """That of the others has every figure: `figures/test_shipped.py`, where they are drawn."""
    text = render_report(whole_report(name), "html")
    assert text.count("<svg") + text.count("<img") == 0
    assert "<title>" in text


def _counts(text: str) -> list[int]:
    """The numbers of runs that a table's place states: `7`, `7 of 20`, `1.2 ± 0.3 (7 of 20, 1 failed)`."""
    return [int(found) for found in re.findall(r"(?:^|\()(\d+)", text)]


@pytest.mark.parametrize("name", OF_RUNS)
def test_n_is_stated_in_every_cell_or_box(name):
    made = report(name)
    grids = [block for block in made.blocks if isinstance(block, ReportTable)]
    assert grids
    for grid in grids:
        rows = [[cell if isinstance(cell, Value) else Value(cell) for cell in row] for row in grid.rows]
        ours = [row for row in rows if not row[0].under and ", seed " not in row[0].text]
        if "n" in grid.header:
            assert all(_counts(row[grid.header.index("n")].text) for row in ours)
        elif name.startswith("zhang-table"):
            places = [place for row in ours for place in row[1:]]
            assert places
            assert all(_counts(place.text) or place.text == "-" for place in places)
            assert any(_counts(place.text) for place in places)
        elif name in ("zhang-figure9", "zhang-figure10"):
            assert any(
                "2 of 100 pairs of seeds" in note for panel in values_of(made)["panels"] for note in panel["notes"]
            )
        else:
            assert all(_counts(row[1].text) for row in ours), grid.name


def missing_of(name: str) -> dict[str, tuple[int, int]]:
    """Sweep -> runs of the artefact that are finished, and all, each counted once for an arm."""
    there = {record.run_id for record in pool() if record.status == "finished"}
    found: dict[str, tuple[int, int]] = {}
    for sweep, run in planned(name)[1]:
        done, of = found.get(sweep, (0, 0))
        found[sweep] = (done + (run.run_id in there), of + 1)
    return found


@pytest.mark.parametrize("name", [*OF_RUNS, *PROBES])
def test_with_too_few_runs_the_command_that_makes_the_rest_is_named(name):
    text = words(render_report(report(name)))
    named = re.findall(r"`stableft sweep (configs/[\w/.-]+)` makes the rest", text)
    lacking = [sweep for sweep, (done, of) in missing_of(name).items() if done < of]
    assert set(named) <= {f"configs/{sweep}" for sweep in ARTIFACTS[name].sweeps}
    assert sorted(named) == sorted(lacking)


@pytest.mark.parametrize("name", [name for name in ARTIFACTS if name not in NO_RUNS])
def test_counts_and_run_ids_are_in_the_json(name):
    values = strict(report(name))
    rows = pool_runs(name).frame
    counts = rows[rows["status"] == "finished"].groupby(["arm", "task"]).size().to_dict()
    if name in ("mosbach-table1", "mosbach-table4"):
        cells = [cell for cell in values["cells"] if cell["kind"] == "arm"]
        assert {(cell["arm"], cell["task"]): cell["n"] for cell in cells} == counts
        assert {run_id for cell in cells for run_id in cell["run_ids"]} == set(rows["run_id"])
    found = {(run["arm"], run["task"]): run["finished"] for run in values["runs"] if run["finished"]}
    ids = set(values["run_ids"])
    assert sum(place["runs"] for place in values["environments"]) == len(ids)
    plans = {}
    for _, run in {(run.arm, run.run_id): (0, run) for _, run in planned(name)[1]}.values():
        place = (run.arm, run.config.data.task)
        plans[place] = plans.get(place, 0) + 1
    assert {(run["arm"], run["task"]): run["planned"] for run in values["runs"]} == plans
    assert found == counts
    assert ids == set(rows["run_id"])


@pytest.mark.parametrize("name", [name for name in ARTIFACTS if name not in DATASETS])
def test_without_any_run_what_is_known_is_rendered(name):
    made = report_without_runs(name)
    texts = {form: render_report(made, form) for form in ("md", "csv", "latex", "json")}
    strict(made)
    text = words(texts["md"])
    if name in NO_RUNS or name in FORMULAS:
        assert any(isinstance(block, ReportTable) for block in made.blocks)
        return
    of = len({(run.arm, run.run_id) for _, run in planned(name)[1]})
    assert sum(int(n.replace(",", "")) for n in re.findall(r"0 of ([\d,]+) runs of this project", text)) == of
    assert "`stableft sweep configs/" in text
    if name in TABLES:
        assert "iclr2021" in text
    else:
        assert "Nothing to show yet" in text


@pytest.mark.parametrize("name", ["mosbach-figure1", "mosbach-figure7", "zhang-figure4", "zhang-figure9"])
def test_a_figure_without_any_run_is_not_drawn_and_says_why(name):
    made = report_without_runs(name)
    assert made.figures == {}
    assert made.undrawn == {name: "no run is finished"}
    assert not any(isinstance(block, Picture) for block in made.blocks)


# --- runs that someone else did

SOURCE = ImportSource(kind="zhang-logs", name="their-logs", sha256="ab" * 32)


def imported(arm: str, task: str, seed: int) -> ImportedRun:
    rng = np.random.default_rng([len(arm), len(task), seed])
    val, test = (float(value) for value in rng.uniform(0.6, 0.8, 2))
    metric = {"rte": "accuracy", "mrpc": "f1", "stsb": "spearman", "cola": "mcc"}[task]
    return ImportedRun(
        run_id=f"{sum(map(ord, arm + task)):08x}{seed:08x}",
        arm=arm,
        task=task,
        seed=seed,
        metric=metric,
        split="test",
        report="best",
        evals=tuple(
            ImportedEval(step=step, train_loss=float(rng.uniform(0.1, 0.7)), val_loss=0.5, val={metric: val})
            for step in STEPS[1:]
        ),
        last=None,
        best=ImportedScores(step=40, val={metric: val}, test={metric: test}),
        failed=False,
        baseline=0.5,
        steps=40,
        source=SOURCE,
    )


@functools.cache
def theirs(arms: tuple[str, ...]) -> tuple[ImportedRun, ...]:
    return tuple(
        imported(arm, task, seed) for arm in arms for task in ("rte", "mrpc", "stsb", "cola") for seed in range(6)
    )


def with_imported(name: str, arms: tuple[str, ...], own=()) -> Report:
    artifact, runs = planned(name)
    return build_report(collect_runs(artifact, runs, [*own, *theirs(arms)]))


def of_them(arm: str, task: str) -> list[ImportedRun]:
    return [run for run in theirs((arm,)) if run.task == task]


def test_imported_runs_stand_in_zhang_table1_as_not_ours():
    made = with_imported("zhang-table1", ("zhang", "zhang-reinit"), own=where(Z, {"rows": 1000}, task="rte"))
    cells = {(cell["arm"], cell["task"]): cell for cell in mean_cells(values_of(made)).values()}
    for arm in ("zhang", "zhang-reinit"):
        values = [run.best.test["accuracy"] for run in of_them(arm, "rte") if run.best and run.best.test]
        cell = cells[f"{arm} (imported: their-logs)", "rte"]
        assert (cell["n"], cell["n_planned"]) == (6, None)
        assert cell["mean"] == pytest.approx(np.mean(values))
        assert cell["std"] == pytest.approx(np.std(values, ddof=1))
        assert list(cell["sources"].values()) == [6]
    assert cells["zhang-1k", "rte"]["sources"] == {}
    text = words(render_report(made))
    assert re.search(r"zhang.* on RTE \(6\), MRPC \(6\)", text)
    assert re.search(r"imported from their-logs \(zhang-logs, sha256 abababababab\)", text)


def test_imported_runs_are_boxes_curves_and_trials_as_not_ours():
    arms = ("zhang", "zhang-bertadam")
    labels = {"zhang": "Correction", "zhang-bertadam": "No Correction"}
    for name in ("zhang-figure2", "zhang-figure3", "zhang-figure4"):
        made = with_imported(name, arms)
        assert re.search("imported from their-logs", words(render_report(made)))
        panel = next(panel for panel in values_of(made)["panels"] if panel["title"] == "RTE")
        shown = {found["label"]: found for found in panel.get("boxes", panel.get("curves"))}
        for arm, label in labels.items():
            runs = of_them(arm, "rte")
            shown[label] = shown[f"{label} (imported)"]
            assert shown[label]["n"] == 6
            if name == "zhang-figure2":
                values = sorted(100 * run.best.test["accuracy"] for run in runs if run.best and run.best.test)
                assert shown[label]["scores"] == pytest.approx(values)
            elif name == "zhang-figure3":
                losses = np.array([[point.train_loss for point in run.evals] for run in runs], dtype=float)
                assert shown[label]["y"] == pytest.approx(losses.mean(axis=0))
                assert shown[label]["high"] == pytest.approx(losses.max(axis=0))
            else:
                values = np.array([run.best.test["accuracy"] for run in runs if run.best and run.best.test])
                error = 100 * values.std() / math.sqrt(1000)
                assert abs(shown[label]["y"][0] - 100 * values.mean()) < 4 * error
        runs = {(run["arm"], run["task"], run["origin"]): run["finished"] for run in strict(made)["runs"]}
        assert runs["zhang (imported: their-logs)", "rte", "their-logs (zhang-logs, sha256 abababababab)"] == 6


def test_imported_runs_are_never_pooled_with_ours():
    own = where(Z, task="rte")
    made = with_imported("zhang-figure2", ("zhang",), own=own)
    panel = next(panel for panel in values_of(made)["panels"] if panel["title"] == "RTE")
    boxes = {box["label"]: box["scores"] for box in panel["boxes"]}
    theirs_on_rte = [run.best.test["accuracy"] for run in of_them("zhang", "rte") if run.best and run.best.test]
    assert boxes["Correction"] == pytest.approx(sorted(100 * value for value in scores(own, "best", "test")))
    assert boxes["Correction (imported)"] == pytest.approx(sorted(100 * value for value in theirs_on_rte))
    assert "zhang on RTE (6)" in words(render_report(made))


def test_imported_runs_have_their_own_family_of_bold_numbers_and_share_the_printed_value():
    own = [*where(Z, task="rte"), *where(Z, {"rows": 1000}, task="rte")]
    alone, beside = (
        values_of(with_imported("zhang-table1", arms, own=own)) for arms in ((), ("zhang", "zhang-reinit"))
    )
    ours = [row for row in beside["cells"] if "imported" not in row["arm"]]
    assert ours == alone["cells"]
    cells = mean_cells(beside)
    own_cell, their_cell = (cells[row, "RTE, 3 Epochs"] for row in ("Standard", "Standard (imported)"))
    assert their_cell["published"]["mean"] == own_cell["published"]["mean"] == 0.695
    assert their_cell["family"] != own_cell["family"]
    lines = render_report(with_imported("zhang-table1", ("zhang",), own=own)).splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    compared = ["- difference", "- compatible at .05 (p; difference)", "- published SD/ours"]
    assert names[3:11] == ["- Z, Table 1 (iclr2021)", *compared, "Standard (imported)", *compared]


def test_what_a_table_of_means_shows_is_explained_once():
    text = " ".join(render_report(with_imported("zhang-table1", ("zhang",), own=where(Z, task="rte"))).split())
    assert text.count("Mean ± std over seeds") == 1
    assert text.count("1,000 rows, as above.") == 2


def test_how_the_panels_of_a_figure_were_made_is_said_once():
    text = " ".join(render_report(with_imported("zhang-figure4", ("zhang",), own=())).split())
    assert text.count("- The best of each number of runs drawn with replacement") == 1


def test_runs_of_two_sources_are_two_boxes_that_name_them():
    other = tuple(
        run.model_copy(update={"source": SOURCE.model_copy(update={"name": name, "sha256": sha * 32})})
        for name, sha in (("other", "cd"), ("their-logs", "ef"))
        for run in theirs(("zhang",))
    )
    artifact, runs = planned("zhang-figure2")
    made = build_report(collect_runs(artifact, runs, [*theirs(("zhang",)), *other]))
    panel = next(panel for panel in values_of(made)["panels"] if panel["title"] == "RTE")
    assert [(box["label"], box["n"]) for box in panel["boxes"]] == [
        ("Correction (imported: their-logs abababababab)", 6),
        ("Correction (imported: other)", 6),
        ("Correction (imported: their-logs efefefefefef)", 6),
    ]


def test_a_search_among_imported_runs_is_their_own():
    searched = ("llrd lr=2e-05, llrd=0.9", "llrd lr=2e-05, llrd=0.95")
    own = [record for record in where(Z, task="rte") if record.arm == "llrd lr=2e-05, llrd=0.9"]
    cells = mean_cells(values_of(with_imported("zhang-table2", searched, own=own)))
    arms = [cells[row, "LLRD"]["arm"] for row in ("RTE", "RTE (imported)")]
    assert re.fullmatch(r"llrd lr=.* \(imported: their-logs\)", arms[1])
    assert "imported" not in arms[0]


# --- all at once


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rebuilt(results: Path, out: Path, records) -> tuple[dict[str, bytes], list[str]]:
    (results / "records").mkdir(parents=True)
    write_records_file(results / "records" / "pool.jsonl", records)
    out.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_stats, "HELD_OUT_ROWS", 6)
        patch.chdir(results.parent)
        lines = list(build_all_reports(Path(results.name), [], GLUE, "recipe", Path(out.name)))
    return folder_bytes(out), lines


def check_twice(tmp_path: Path, records, expected: set[str]) -> None:
    """Builds the reports of equal records twice, and compares every byte of every file; probes come after the runs."""
    made = []
    for number in ("one", "two"):
        (tmp_path / number).mkdir()
        made.append(rebuilt(tmp_path / number / "results", tmp_path / number / "reports", records))
    (first, lines), (second, _) = made
    assert set(first) == set(second)
    assert [name for name in first if first[name] != second[name]] == []
    folders = {name.partition("/")[0] for name in first}
    assert folders == {*expected, "pool", "all.html"}
    assert len(lines) == len(folders)
    for name in expected:
        assert {f"{name}/report{ending}" for ending in (".md", ".csv", ".tex", ".json", ".html")} <= set(first)
        json.loads(first[f"{name}/report.json"], parse_constant=refuse)
    assert sum(name.endswith(".png") for name in first) >= sum("figure" in name for name in expected)


@pytest.mark.nightly
def test_rebuilt_twice_from_equal_records_every_file_has_equal_bytes(tmp_path):
    check_twice(tmp_path, [*pool(), *probe_pool()], set(ARTIFACTS))


def test_rebuilt_twice_some_reports_of_every_kind_have_equal_bytes(papers_sweeps, tmp_path, monkeypatch):
    some = ("mosbach-table2", "mosbach-table3", "mosbach-figure6", "zhang-table4", "zhang-figure3", "zhang-figure7")
    monkeypatch.setattr(everything, "ARTIFACTS", {name: ARTIFACTS[name] for name in (*some, "mosbach-table4")})
    wanted = {run.run_id for _, run in planned("zhang-table4")[1] if run.config.data.task == "rte"}
    records = [record for record in pool() if record.run_id in wanted]
    # What no record belongs to, or what needs probes of which there are none, is left out.
    check_twice(tmp_path, records, set(some) - {"zhang-figure7"})


@pytest.mark.slow
def test_a_figure_of_probes_is_rebuilt_where_there_are_their_records(papers_sweeps, tmp_path, monkeypatch):
    monkeypatch.setattr(
        everything, "ARTIFACTS", {name: ARTIFACTS[name] for name in ("zhang-figure7", "zhang-figure16")}
    )
    wanted = {run.run_id for _, run in planned("zhang-figure7")[1]}
    records = [record for record in (*pool(), *probe_pool()) if record.run_id in wanted]
    check_twice(tmp_path, records, {"zhang-figure7"})


def test_a_report_that_is_refused_is_a_line_and_the_others_go_on(papers_sweeps, tmp_path, monkeypatch):
    monkeypatch.setattr(
        everything, "ARTIFACTS", {name: ARTIFACTS[name] for name in ("zhang-figure3", "mosbach-figure6")}
    )
    records = where(Z, task="rte")
    unlike = where(M, task="rte")[0].model_copy(update={"arm": records[0].arm})
    folder = tmp_path / "results" / "records"
    folder.mkdir(parents=True)
    write_records_file(folder / "good.jsonl", records)
    write_records_file(folder / "mixed.jsonl", [*records[1:], unlike])
    lines = list(build_all_reports(tmp_path / "results", [], None, "recipe", tmp_path / "out"))
    assert [line.partition(": ")[2].startswith("no report: the runs of 'zhang'") for line in lines] == [
        False,
        True,
        False,
        False,
        False,
    ]
    assert lines[-1].endswith("all.html: 3 reports in one file")
    assert not (tmp_path / "out" / "mixed").exists()


def test_a_figure_is_laid_out_once_for_every_form(tmp_path):
    made, drawn = report("zhang-figure3"), []
    (name, draw), *_ = made.figures.items()
    counted = replace(made, figures={name: lambda: drawn.append(name) or draw()}, svg_cache={})
    write_report_folder(counted, tmp_path)
    reports_to_html([counted], "again")
    assert drawn == [name]
    assert counted.svg_cache[name] == figure_to_bytes(draw(), "svg")
    assert (tmp_path / f"{name}.png").read_bytes() == figure_to_bytes(draw(), "png")
