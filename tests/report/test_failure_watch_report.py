"""The failure watch in reports, from made-up records: who is named, and how often it was right."""

import csv
import io
import json

import pytest
from support.reports import find_cell, make_report
from support.table_records import make_record

from stableft.records.run_record import FailureWatchRecord, VanishingGradients
from stableft.report.artifact import make_sweep_artifact
from stableft.report.forms.document import Heading, ReportTable
from stableft.report.forms.write import render_report
from stableft.report.stability_report import build_stability_report


def watch(first=None, last=None, at_end=False):
    seen = [
        None if step is None else VanishingGradients(step=step, ratio=1e-4 * step, loss=0.691) for step in (first, last)
    ]
    return FailureWatchRecord(nothing_learnt=0.693, looks=10, first=seen[0], last=seen[1], at_end=at_end)


def runs(watches, scores, arm="devlin", lr=2e-5):
    records = [make_record(arm=arm, seed=seed, last=score, lr=lr) for seed, score in enumerate(scores, 1)]
    return [record.model_copy(update={"watch": w}) for record, w in zip(records, watches, strict=True)]


@pytest.fixture
def table():
    """Returns five watched runs of devlin, one of each kind, and two of mosbach, of which one was not watched."""
    kinds = [watch(3, 9, True), watch(5, 9, True), watch(7, 9, True), watch(), watch(2, 4)]
    records = runs(kinds, [0.4, 0.45, 0.7, 0.3, 0.8])
    records += runs([watch(), None], [0.8, 0.9], "mosbach", 1e-5)
    return make_report(records, artifact=make_sweep_artifact("mine", "mine.yaml"), published={})


def texts(grid):
    return tuple(tuple(value.text for value in row) for row in grid.rows)


def grids(report):
    return {block.name: block for block in report.blocks if isinstance(block, ReportTable)}


def test_how_often_the_watch_was_right(table):
    report = build_stability_report(table)
    assert Heading("Failure watch") in report.blocks
    grid = grids(report)["mine-watch"]
    assert grid.header[1:] == (
        *("watched", "failed", "warned, failed", "warned, not failed", "failed, no warning", "taken back"),
        "median first step",
    )
    assert texts(grid) == (
        ("devlin", "5", "3", "2", "1", "1", "1", "5"),
        ("mosbach", "1", "0", "0", "0", "0", "0", "-"),
    )


def test_every_run_that_has_likely_failed_is_named_with_its_numbers(table):
    grid = grids(build_stability_report(table))["mine-watch-runs"]
    assert grid.caption.startswith("Likely failed: vanishing gradients")
    ids = [seen.run_id for seen in table.cells[0].watched]
    assert texts(grid) == (
        (ids[0], "devlin", "1/101", "3", "9", "0.0009", "0.691", "0.693", "yes"),
        (ids[1], "devlin", "2/102", "5", "9", "0.0009", "0.691", "0.693", "yes"),
        (ids[2], "devlin", "3/103", "7", "9", "0.0009", "0.691", "0.693", "no"),
    )


def test_the_watch_is_in_every_form(table):
    report = build_stability_report(table)
    texts = {form: render_report(report, form) for form in ("md", "latex", "html")}
    for form, text in texts.items():
        plain = " ".join(text.split())
        assert "ikely failed: vanishing gradients" in plain, form
        assert plain.count("The watch knows nothing of scores.") == (2 if form == "latex" else 1)
        assert table.cells[0].watched[2].run_id in plain
    values = json.loads(render_report(report, "json"))
    expected = {"watched": 5, "watched_failed": 3, "warned_failed": 2, "warned_not_failed": 1}
    expected |= {"failed_not_warned": 1, "taken_back": 1, "median_first_step": 5.0}
    assert {name: find_cell(values, "devlin")[name] for name in expected} == expected
    watched = values["watched_runs"]
    assert [run["watch"]["at_end"] for run in watched] == [True, True, True, False, False, False]
    assert watched[4]["watch"]["last"] == {"step": 4, "ratio": 4e-4, "loss": 0.691}
    devlin, mosbach = csv.DictReader(io.StringIO(render_report(report, "csv")))
    assert (devlin["watched"], devlin["warned_failed"], devlin["failed_not_warned"]) == ("5", "2", "1")
    assert devlin["likely_failed_runs"].count("(seed ") == 3
    assert mosbach["likely_failed_runs"] == ""


def test_runs_that_were_not_watched_have_no_section():
    records = runs([None, None], [0.4, 0.8])
    report = build_stability_report(
        make_report(records, artifact=make_sweep_artifact("mine", "mine.yaml"), published={})
    )
    for form in ("md", "csv", "latex", "html", "json"):
        assert "watch" not in render_report(report, form)


def test_no_warning_means_no_list_of_runs():
    records = runs([watch(), watch()], [0.4, 0.8])
    report = build_stability_report(
        make_report(records, artifact=make_sweep_artifact("mine", "mine.yaml"), published={})
    )
    assert list(grids(report)) == ["mine-rte", "mine-watch"]
