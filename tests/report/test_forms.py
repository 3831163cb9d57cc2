"""Every kind of block in every form of text; `check_latex` is as strict as LaTeX where it matters here."""

import csv
import io
import json
import math
import re
from types import MappingProxyType

import numpy as np
import pytest
from support.reports import NARROW, WIDE, make_report, make_runs, render

from stableft.report.artifact import make_sweep_artifact
from stableft.report.forms.document import (
    FOR_READERS,
    Bullets,
    Column,
    DataTable,
    Heading,
    Paragraph,
    Picture,
    Provenance,
    Report,
    ReportTable,
    Row,
    Value,
)
from stableft.report.forms.latex import report_to_latex
from stableft.report.forms.markdown import LINE_WIDTH, report_to_markdown
from stableft.report.forms.write import render_report, report_to_csv, report_to_json
from stableft.report.stability_report import build_stability_report

ODD = r"50%_of {a} | b\c~^#$ & <d> `e` --f"
MEANS = ReportTable(
    "means-1",
    ("model", "RTE", "MRPC", "RTE"),
    (
        ("Standard", "69.5", Value("90.8", bold=True), Value("72.3", mark="*")),
        (Value("difference", under=True), "+0.1", Value("-1.0", bold=True, mark="*†"), ""),
    ),
    caption="Bold: the larger mean, by Student's t-test (one-sided)",
    groups=(("3 Epochs", 2), ("Longer", 1)),
    notes=("* p < .05", "Run `stableft sweep a_b.yaml --jobs 2`."),
)


def report(*blocks, tables=(), rows=(), facts=None, title="Means"):
    data = {"rows": DataTable.from_records(rows, only="csv")}
    return Report("means", title, blocks, data=data, facts=facts or {}, standalone=tables)


def check_latex(text):
    """Asserts that environments, braces and dollars are balanced, rows as long as their table, and signs escaped."""
    assert text.startswith("% Needs \\usepackage{booktabs}. ")
    text = re.sub(r"^% .*\n", "", text, flags=re.MULTILINE)
    open_environments = []
    for command, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", text):
        if command == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert open_environments == []
    bare = re.sub(r"\\[\\{}&%$#_]", "", text.replace("\\\\\n", "\n"))
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    formulas, words = bare.split("$")[1::2], "".join(bare.split("$")[::2])
    assert not re.search(r"[%#~_^<>|`]|--", words)
    assert all(re.fullmatch(r"[<>^{}\\a-z-]+", formula) for formula in formulas)
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) >= 2
        for line in lines:
            spans = [int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert len(re.findall(r"(?<!\\)&", line)) + sum(spans) + 1 == len(columns), line
            assert not line.startswith(("[", "*"))


def test_blocks_in_markdown():
    prose = Paragraph("word " * 40), Heading("Deeper", 3), MEANS, Bullets(("a", "b " * 70))
    text = report_to_markdown(report(Heading("RTE\nand more"), *prose))
    assert text.startswith("# Means\n\n## RTE and more\n\nword word")
    assert max(map(len, text.splitlines())) <= LINE_WIDTH
    assert "\n\n### Deeper\n\n| model " in text
    rows = text[text.index("| model") :].splitlines()[:4]
    assert rows == [
        "| model        |  RTE |       MRPC |   RTE |",
        "| ------------ | ---: | ---------: | ----: |",
        "| Standard     | 69.5 |   **90.8** | 72.3* |",
        "| - difference | +0.1 | **-1.0***† |       |",
    ]
    assert f"\n\n{MEANS.caption}\n\n- * p < .05\n- Run `stableft" in text
    assert re.search(r"\n- a\n- b b .*\n  b b ", text)
    assert text.endswith("b\n")
    assert "\n\n\n" not in text


def test_signs_in_markdown():
    odd = (ODD, Value("x|y", bold=True, mark="†")), ("two\nlines", Value("", bold=True))
    text = report_to_markdown(report(ReportTable("g", ("", "a|b"), odd)))
    rows = text.splitlines()[2:]
    assert r"**x\|y**†" in rows[2]
    assert len({len(row) for row in rows}) == 1
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}
    assert rows[3].startswith("| two lines ")
    assert "**" not in rows[3]


def test_a_title_below_the_ranks_is_a_plain_line():
    assert report_to_markdown(report(Heading("Notes", 4), Bullets(("one",)))) == "# Means\n\nNotes\n\n- one\n"


def test_pictures_are_links_only_where_the_files_are():
    made = report(Picture("scores", "every score [of 5]\nby arm"), Paragraph("after"))
    assert report_to_markdown(made) == "# Means\n\nafter\n"
    assert "\n\n![every score (of 5) by arm](scores.png)\n\nafter\n" in report_to_markdown(made, pictures=True)


def test_a_grid_in_latex():
    text = report_to_latex(report(tables=(MEANS,)))
    check_latex(text)
    lines = text.splitlines()
    assert lines[3:7] == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Bold: the larger mean, by Student's t-test (one-sided)}",
        r"\label{tab:means-1}",
    ]
    assert r"\begin{tabular}{lrrr}" in lines
    assert r" & \multicolumn{2}{c}{3 Epochs} & \multicolumn{1}{c}{Longer} \\" in lines
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-4}" in lines
    assert r"Standard & 69.5 & \textbf{90.8} & 72.3$^{\star}$ \\" in lines
    assert r"\quad difference & +0.1 & \textbf{$-$1.0}$^{\star\dagger}$ &  \\" in lines
    assert r"\par\smallskip\raggedright\footnotesize Run \texttt{stableft sweep a\_b.yaml -{}-jobs 2}." in lines


def test_signs_in_latex():
    odd = ReportTable(
        "a_b c/1",
        ("", ODD, "[b]"),
        ((f"[{ODD}]", Value(ODD, bold=True, mark="x_1"), "±×≤≥−εβ–—’‡†"), ("*", "", "two\nlines")),
        caption=ODD,
        groups=(("", 1), (ODD, 1)),
        notes=(ODD,),
    )
    text = report_to_latex(report(tables=(odd,), title=ODD))
    check_latex(text)
    assert r"\label{tab:a-b-c-1}" in text
    assert "\n{}[50\\%" in text
    assert r"\textsuperscript{x\_1}" in text
    assert text.count(r"\cmidrule") == 1
    assert "two lines" in text


def test_a_table_without_a_caption_has_the_title_of_the_report():
    assert r"\caption{Means \& more}" in report_to_latex(
        report(tables=(ReportTable("g", ("", "n"), (("a", "1"),)),), title="Means & more")
    )


def test_no_table_in_latex_is_a_comment():
    assert report_to_latex(report(title="Loss\nsurfaces")) == "% Loss surfaces: there is no table of it.\n"


def test_the_tables_of_stability_are_latex():
    sweep = make_sweep_artifact("a_sweep of mine", "x.yaml")
    runs = make_runs(ODD, WIDE), make_runs("mosbach", NARROW), make_runs("mosbach", [0.47] * 4, task="cola")
    made = build_stability_report(make_report(*runs, artifact=sweep))
    check_latex(render_report(made, "latex"))
    assert [grid.name for grid in made.tables] == ["a-sweep-of-mine", "a-sweep-of-mine-rte-tests"]
    assert made.tables[0].groups == (("RTE", 8), ("CoLA", 8))


def test_every_grid_is_rectangular():
    runs = make_runs("devlin", WIDE), make_runs("mosbach", NARROW), make_runs("mosbach", NARROW, task="cola")
    for artifact in ({}, {"artifact": make_sweep_artifact("s", "s.yaml")}):
        made = build_stability_report(make_report(*runs, **artifact))
        grids = [*made.tables, *(block for block in made.blocks if isinstance(block, ReportTable))]
        assert len(grids) >= 3
        for grid in grids:
            assert {len(row) for row in grid.rows} == {len(grid.header)}
            assert not grid.groups or sum(n for _, n in grid.groups) == len(grid.header) - 1
            assert re.fullmatch("[A-Za-z0-9-]+", grid.name)


def test_the_figures_of_stability_have_places_and_words():
    table = make_report(make_runs("devlin", WIDE), make_runs("mosbach", NARROW))
    made = build_stability_report(
        table, {"scores": list, "training-loss": list, "more": list}, Provenance(run_ids=("a",))
    )
    pictures = [block for block in made.blocks if isinstance(block, Picture)]
    assert [picture.name for picture in pictures] == ["scores", "training-loss", "more"]
    assert made.blocks[0] == pictures[0]
    assert pictures[0].alt.endswith("RTE (devlin 0/10 failed, mosbach 0/10 failed).")
    assert made.provenance.run_ids == ("a",)
    assert report_to_markdown(made) == render(table)


def test_csv_has_every_key_once_and_numbers_as_they_are():
    rows = (
        {"title": "a, b", "x": 0.1, "failed": None},
        {"title": 'c "d"\ne', "label": "1.50", "x": np.float64(1 / 3)},
        MappingProxyType({"x": math.nan, "failed": True, "n": 7}),
    )
    text = report_to_csv(report(rows=rows))
    assert text.startswith("title,x,failed,label,n\n")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["x"] for line in lines] == ["0.1", "0.333333333", "NaN"]
    assert [line["failed"] for line in lines] == ["", "", "True"]
    assert [line["title"] for line in lines] == ["a, b", 'c "d"\ne', ""]
    assert (lines[1]["label"], lines[2]["n"]) == ("1.50", "7")
    assert report_to_csv(report()) == ""


def test_csv_joins_lists_and_refuses_what_is_no_number_or_text():
    assert report_to_csv(report(rows=({"x": [1, 0.5, "a"], "y": {"file": 2}},))) == "x,y\n1; 0.5; a,file: 2\n"
    with pytest.raises(ValueError, match="cannot be written"):
        report_to_csv(report(rows=({"x": np.ones(2)},)))


def test_units_and_intervals_are_columns_in_csv_and_fractions_in_json():
    columns = Column("mean", "mean", "percent"), Column("ratio_bca", "95 %", interval=True), Column("p")
    values = {"mean": Value("62.5", 0.625), "ratio_bca": Value("1 to 2", [1.0, 2.0]), "run_ids": Value(data=["a"])}
    table = DataTable(columns, (Row("arm", values), Row("published", {"mean": Value("50.0", 0.5)})))
    made = Report("means", "Means", (), data={"cells": table})
    assert list(csv.reader(io.StringIO(report_to_csv(made)))) == [
        ["kind", "mean [percent]", "ratio_bca_low", "ratio_bca_high", "p"],
        ["arm", "62.5", "1.0", "2.0", ""],
        ["published", "50.0", "", "", ""],
    ]
    assert json.loads(report_to_json(made))["cells"] == [
        {"kind": "arm", "mean": 0.625, "ratio_bca": [1.0, 2.0], "run_ids": ["a"]},
        {"kind": "published", "mean": 0.5},
    ]


def test_pivot_sets_blocks_side_by_side_and_keeps_rows_below_their_own():
    def row(arm, task, n, under=False, origin=None):
        values = {"arm": Value(arm, "x", under=under), "task": Value(task), "n": Value(n), "origin": Value(data=origin)}
        return Row("", values)

    rows = (row("a", "RTE", "1"), row("less", "RTE", "2", True, "p"), row("less", "RTE", "3", True, "q"))
    rows += (row("b", "RTE", "4"), row("a", "CoLA", "5"), row("less", "CoLA", "6", True, "q"))
    table = DataTable((Column("arm", "arm"), Column("task"), Column("n", "n")), rows).pivot(
        "wide", "arm", "task", ["n"], under_by="origin"
    )
    assert table.header == ("arm", "RTE", "CoLA")
    assert [tuple(value.text for value in line) for line in table.rows] == [
        ("a", "1", "5"),
        ("less", "2", ""),
        ("less", "3", "6"),
        ("b", "4", "-"),
    ]


def test_records_may_have_columns_and_values_for_readers():
    row, here, printed = Column("row"), Column("here", "here"), Column("printed", "printed")
    records = [
        {
            row: Value("Size", "size"),
            "column": Value(task, task),
            here: Value(n, int(n)),
            printed: Value("3"),
            "ok": n == "3",
        }
        for task, n in (("RTE", "2"), ("CoLA", "3"))
    ]
    table = DataTable.from_records(records)
    assert table.view("long").header == ("", "", "here", "printed", "")
    assert [line[2].text for line in table.view("long").rows] == ["2", "3"]
    wide = table.pivot("wide", "row", "column", ["here", "printed"], full_titles=True)
    assert wide.header == ("", "RTE here", "RTE printed", "CoLA here", "CoLA printed")
    assert wide.groups == (("RTE", 2), ("CoLA", 2))
    assert [[value.text for value in line] for line in wide.rows] == [["Size", "2", "3", "3", "3"]]
    assert report_to_csv(Report("sizes", "Sizes", (), data={"cells": table})).splitlines() == [
        "row,column,here,printed,ok",
        "size,RTE,2,,False",
        "size,CoLA,3,,True",
    ]


def test_texts_for_readers_alone_are_in_no_file_of_numbers():
    columns = Column("n"), Column("shown", "n of planned", for_readers=True)
    rows = Row("arm", {"n": Value(data=[1, None]), "shown": Value("1 of 2")}), Row(FOR_READERS, {"n": Value(data=2)})
    made = Report("means", "Means", (), data={"cells": DataTable(columns, rows)})
    assert report_to_csv(made) == "kind,n\narm,1; \n"
    assert json.loads(report_to_json(made))["cells"] == [{"kind": "arm", "n": [1, None]}]


def test_tasks_of_one_title_are_two_blocks():
    rows = [Row("", {"arm": Value("a"), "task": Value("RTE", name), "n": Value(name)}) for name in ("rte", "RTE")]
    table = DataTable((Column("arm", "arm"), Column("task"), Column("n", "n")), tuple(rows))
    wide = table.pivot("wide", "arm", "task", ["n"])
    assert wide.header == ("arm", "RTE (rte)", "RTE (RTE)")
    assert [value.text for value in wide.rows[0]] == ["a", "rte", "RTE"]


def test_json_is_the_facts():
    facts = {"a": (1, 2.5, None, True, "±"), "b": MappingProxyType({"c": []}), "d": [math.nan, np.float64(1 / 3)]}
    text = report_to_json(report(facts=facts))
    known = {"report": "means", "title": "Means"}
    assert json.loads(text) == known | {"a": [1, 2.5, None, True, "±"], "b": {"c": []}, "d": [None, 0.333333333]}
    assert "±" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [np.int64(1), np.bool_(True), np.ones(2), {1}])
def test_json_refuses_what_json_has_no_word_for(value):
    with pytest.raises(ValueError, match=r"means\.cells\[1\]\.mean is "):
        report_to_json(report(facts={"cells": [{"mean": 0.5}, {"mean": value}]}))


def test_json_refuses_keys_that_are_no_texts():
    with pytest.raises(ValueError, match="means has the key 1,"):
        report_to_json(report(facts={1: "a"}))
