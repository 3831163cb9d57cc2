"""A report as files: where it goes, and what is written there."""

import re
import subprocess
import sys

import pytest

from stableft.errors import UserError
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.panels import Curve, CurvePanel
from stableft.report.figures.style import figure_to_bytes
from stableft.report.forms.document import (
    Bullets,
    Heading,
    OriginCount,
    Paragraph,
    Picture,
    Provenance,
    Report,
    ReportTable,
)
from stableft.report.forms.write import (
    render_report,
    resolve_target,
    save_sweep_report,
    write_report,
    write_report_folder,
)

FORMS = [f"report.{ending}" for ending in ("csv", "html", "json", "md", "tex")]
FINISHED = Provenance(runs=(OriginCount("mosbach", "rte", "this project", 2, 25),))


def drawn(label):
    return draw_panels([CurvePanel("RTE", "step", "loss", (Curve(label, (1.0, 2.0), (0.7, 0.1)),))])


def report(provenance=FINISHED, **undrawn):
    names = [name for name in ("scores", "training-loss") if name.replace("-", "_") not in undrawn]
    return Report(
        "mine",
        "My sweep",
        (Heading("Scores"), Picture("scores", "every score"), ReportTable("mine-1", ("", "n"), (("mosbach", "2"),))),
        figures={name: lambda name=name: drawn(name) for name in names},
        undrawn={name.replace("_", "-"): why for name, why in undrawn.items()},
        provenance=provenance,
    )


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_table_does_not_wait_for_matplotlib():
    code = "import sys, stableft.report.forms.write; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_holds_every_form_and_figure(tmp_path):
    folder = tmp_path / "new" / "folder"
    lines = write_report_folder(report(), folder)
    assert names_in(folder) == sorted([*FORMS, "scores.png", "training-loss.png"])
    assert sorted(lines) == [str(folder / name) for name in names_in(folder)]
    shown = re.findall(r"^!\[.*\]\((.*)\)$", (folder / "report.md").read_text(), re.MULTILINE)
    assert shown == ["scores.png", "training-loss.png"]


def test_a_figure_that_cannot_be_drawn_is_said(tmp_path):
    made = report(training_loss="no record has evaluations")
    assert "no training-loss.png: no record has evaluations" in write_report_folder(made, tmp_path)
    assert names_in(tmp_path) == sorted([*FORMS, "scores.png"])
    with pytest.raises(UserError, match="no record has evaluations"):
        write_report(made, resolve_target(f"{tmp_path}/x.png", None, "training-loss"))


@pytest.mark.parametrize(
    ("out", "form", "figure", "expected"),
    [
        ("x.md", None, None, ("md", False, None)),
        ("x.csv", None, None, ("csv", False, None)),
        ("x.tex", None, None, ("latex", False, None)),
        ("x.json", None, None, ("json", False, None)),
        ("x.html", None, None, ("html", False, None)),
        ("x.md", "latex", None, ("latex", False, None)),
        ("x", "json", None, ("json", False, None)),
        ("x.png", None, None, (None, True, None)),
        ("x.svg", None, "training-loss", (None, True, "training-loss")),
        ("new/", None, None, (None, False, None)),
        (".", None, None, (None, False, None)),
        (None, None, None, ("text", False, None)),
        (None, "csv", None, ("csv", False, None)),
    ],
)
def test_where_a_report_goes(out, form, figure, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = resolve_target(out, form, figure)
    assert (output.form, output.is_figure, output.figure) == expected
    assert (output.path is None) == (out is None)


def test_a_name_of_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="x is a file, not a folder"):
        resolve_target(f"{tmp_path}/x/", None, None)


@pytest.mark.parametrize(("figure", "label"), [("training-loss", "training-loss"), (None, "scores")])
def test_a_figure_by_its_ending(figure, label, tmp_path):
    assert write_report(report(), resolve_target(f"{tmp_path}/x.svg", None, figure)) == ""
    assert (tmp_path / "x.svg").read_bytes() == figure_to_bytes(drawn(label), "svg")


def test_a_figure_that_the_report_does_not_have(tmp_path):
    with pytest.raises(UserError, match=r"--figure score: report 'mine' has scores, training-loss.*scores"):
        write_report(report(), resolve_target(f"{tmp_path}/x.png", None, "score"))
    with pytest.raises(UserError, match="is a table, it has no figure"):
        write_report(Report("mine", "My table", ()), resolve_target(f"{tmp_path}/x.png", None, None))


def test_a_sweep_keeps_its_report_and_names_the_figures(tmp_path):
    folder = tmp_path / "mosbach" / "table1"
    line, written = save_sweep_report(report(), folder)
    assert line
    assert written
    assert "scores.png" in line
    assert "training-loss.png" in line
    assert "\n" not in line
    assert names_in(folder) == sorted([*FORMS, "scores.png", "training-loss.png"])


def test_a_sweep_keeps_no_figure_of_an_earlier_report(tmp_path):
    for name in ("effects.png", "my-effects.png"):
        (tmp_path / name).write_bytes(b"\x89PNG")
    save_sweep_report(report(), tmp_path, ["scores", "effects", "drift"])
    assert names_in(tmp_path) == sorted([*FORMS, "scores.png", "training-loss.png", "my-effects.png"])


def test_a_sweep_in_which_nothing_finished_keeps_nothing(tmp_path):
    nothing = Provenance(runs=(OriginCount("mosbach", "rte", "this project", 0, 25),))
    assert save_sweep_report(report(nothing), tmp_path / "x") == (None, False)
    assert names_in(tmp_path) == []


def test_a_report_that_cannot_be_written_costs_no_result(tmp_path):
    (tmp_path / "sweeps").write_text("a file where the folder should be")
    line, written = save_sweep_report(report(), tmp_path / "sweeps" / "mine")
    assert line
    assert not written
    assert line.startswith("the report's files could not be written: ")
    assert str(tmp_path / "sweeps") in line


def test_names_of_users_are_text_in_every_form():
    name = "\x1b[2J\u202e<b>x</b> [a](javascript:b)"
    made = Report("mine", name, (Heading(name), Paragraph(f"`stableft` {name} < 3"), Bullets((name,)),
                                 ReportTable("t", ("", "n"), ((name, "<1"),))))  # fmt: skip
    assert not {"\x1b", "\u202e"} & set(render_report(made, "text") + render_report(made, "md"))
    markdown = render_report(made, "md")
    assert markdown.count("\\<b>x\\</b> [a\\](javascript:b)") == 5
    assert "< 3" in markdown
    assert "  <1 |" in markdown
    assert "<b>" not in render_report(made, "html")
