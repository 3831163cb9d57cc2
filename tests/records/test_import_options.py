"""Options of `import csv` that choose rows, metrics and chance levels, and say how a file is written."""

import re

import pytest
from support.imports import scores

from stableft.errors import UserError
from stableft.records.csv_table import CsvFormat

TABLE = "seed,arm,lr,epoch,acc\n1,a,1e-5,3,0.6\n2,a,2e-5,10,0.7\n3,a,2e-5,,0.8\n"


@pytest.mark.parametrize(
    ("where", "seeds"),
    [
        (("lr!=1e-5",), [2, 3]),
        (("seed!=1", "seed!=2"), [3]),
        (("epoch<10",), [1]),
        (("epoch<=10",), [1, 2]),
        (("epoch > 3",), [2]),
        (("epoch>=3", "seed<2"), [1]),
        (("lr<0.000015",), [1]),
        (("epoch!=",), [1, 2]),
        (("epoch==3", "epoch=10"), [1, 2]),
    ],
)
def test_conditions_compare(take, where, seeds):
    assert [run.seed for run in take(TABLE, where=where, vary=("lr", "epoch"))[0]] == seeds


@pytest.mark.parametrize(
    ("where", "facts"),
    [
        (("lr!=3e-5",), "--where lr!=3e-5: no row has this value, there are '1e-5', '2e-5'"),
        (("epoch<many",), "--where 'epoch<many': < must be followed by a number"),
        (("arm<3",), r"3 mistakes: \(1\) scores\.csv:2 column 'arm': 'a' must be a number"),
        (("epoch>99",), "no row has all of epoch>99"),
        (("!=3",), r"--where '!=3': must be COLUMN=VALUE, or have !=, <, <=, > or >= in place of ="),
        (("eopch<3", "x"), r"2 mistakes: .*'x': must be COLUMN=VALUE.*--where eopch: there is no such column"),
    ],
)
def test_conditions_that_cannot_be_met_are_refused(refused, where, facts):
    assert re.search(facts, refused(TABLE, where=where))


@pytest.mark.parametrize("delimiter", [";", "|", "tab", "\\t", "semicolon", " "])
def test_any_sign_may_separate_columns(take, delimiter):
    sign = {"tab": "\t", "\\t": "\t", "semicolon": ";"}.get(delimiter, delimiter)
    text = "seed,arm,acc\n1,a,0.6\n".replace(",", sign)
    assert scores(take(text, form=CsvFormat(delimiter))[0]) == [0.6]
    assert scores(take(text, name="scores.txt", form=CsvFormat(delimiter))[0]) == [0.6]


def test_any_encoding_may_be_named(take):
    for encoding in ("latin-1", "utf-16", "cp1252", "UTF8"):
        records, _ = take("seed,arm,acc\n1,é,0.6\n".encode(encoding), form=CsvFormat(None, encoding))
        assert records[0].arm == "é"


@pytest.mark.parametrize(
    ("content", "form", "facts"),
    [
        (
            b"seed,arm,acc\n1,\xe9,0.6\n",
            CsvFormat(),
            "not text in UTF-8; --encoding names another, such as latin-1",
        ),
        (b"seed,arm,acc\n1,\xe9,0.6\n", CsvFormat(None, "ascii"), "not text in ascii"),
        (b"seed", CsvFormat(None, "utf-9"), "--encoding utf-9: there is no such encoding"),
        (b"seed", CsvFormat(None, "hex"), "--encoding hex: there is no such encoding"),
        (b"seed", CsvFormat(";;"), "--delimiter ';;': must be one character, or one of tab"),
        (b"seed", CsvFormat('"'), "must be one character"),
        (b"seed;arm;acc\n1;a;0.6\n", CsvFormat(), "in a .csv file it must be ','; --delimiter ';' reads it"),
        (b"seed\tarm\n", CsvFormat(";"), r"separated by '\\t', but --delimiter says ';'; --delimiter tab reads it"),
    ],
)
def test_a_file_that_is_written_otherwise_is_refused(take, content, form, facts):
    with pytest.raises(UserError, match=facts):
        take(content, form=form)


# ---- metrics


LONG = "seed,arm,task,metric,value\n1,a,rte,acc,0.6\n1,a,mrpc,f1,0.8\n1,a,mine,bleu,0.3\n1,a,rte,loss,0.7\n"


def test_a_column_may_name_the_metric(take):
    records, _ = take(LONG, task="task", score="value", metric="metric", where=("metric!=loss",))
    assert [(run.task, run.metric) for run in records] == [("mine", "bleu"), ("mrpc", "f1"), ("rte", "accuracy")]
    assert [run.failed for run in records] == [None, True, False]


def test_after_an_equals_sign_any_word_is_a_metric(take):
    assert take("seed,arm,acc\n1,a,0.6\n", task="=mine", metric="=exact match")[0][0].metric == "exact match"


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        (
            {"metric": "blue"},
            "--metric blue: must be one of accuracy, .*, a column .*or =blue for a metric of your",
        ),
        ({"metric": "="}, "--metric: the name is empty"),
        ({"metric": "metric"}, r"--metric loss: must be one of accuracy"),
        (
            {"metric": "metric", "where": ("task=rte",), "vary": ("task",), "seed": "seed", "arm": "metric"},
            "runs of rte have two metrics, line 2 has 'acc', line 5 has 'loss'; --where metric=acc keeps one",
        ),
    ],
)
def test_a_metric_that_is_none_is_refused(refused, changes, facts):
    mapping = {"task": "task", "score": "value", "where": ("metric=loss",)} | changes
    assert re.search(facts, refused(LONG, **mapping))


def test_an_empty_metric_is_refused(refused):
    text = "seed,arm,metric,acc\n1,a,,0.6\n2,a,acc,0.6\n"
    assert "scores.csv:2 column 'metric': the field is empty, but --metric needs it" in refused(text, metric="metric")


# ---- chance levels


TWO = "task,seed,arm,acc\nRTE,1,a,0.6\nmine,1,a,0.6\n"


def test_baselines_may_differ_by_task(take):
    records, _ = take(TWO, task="task", baseline=("rte=0.65", "mine=0.5"))
    assert [(run.task, run.baseline, run.failed) for run in records] == [("mine", 0.5, False), ("rte", 0.65, True)]
    records, _ = take(TWO, task="task", baseline=("mine=61%",), rows=("mine=100",))
    assert [(run.baseline, run.rows, run.failed) for run in records] == [(0.61, 100, True), (73 / 139, 139, False)]


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        (
            {"baseline": ("0.5",)},
            r"--baseline 0\.5 is for one task; import one at a time of mine, rte, or say TASK=",
        ),
        ({"baseline": ("cola=0.5",)}, "--baseline cola=0.5: there is no task 'cola', there are mine, rte"),
        ({"baseline": ("rte=0.5", "RTE=0.6")}, r"--baseline RTE=0\.6: rte has 0\.5 already"),
        ({"baseline": ("rte=half",)}, "--baseline half: must be a number, or TASK=NUMBER"),
        ({"baseline": ("rte=130%",)}, "--baseline 130%: the scores are fractions, and so must it be"),
        ({"rows": ("rte=0",)}, "--rows 0: must be a whole number from 1, or TASK=NUMBER"),
        ({"rows": ("rte=many",)}, "--rows many: must be a whole number from 1"),
    ],
)
def test_a_baseline_for_no_task_is_refused(refused, changes, facts):
    assert re.search(facts, refused(TWO, task="task", **changes))


def test_a_value_where_a_column_is_expected_is_told_how_to_be_written(refused):
    assert refused(TABLE, task="blobs").endswith("; --task =blobs gives every row this value")
    assert "--arm amr: " in (close := refused(TABLE, arm="amr"))
    assert close.endswith("did you mean 'arm'?")


# ---- several mistakes at once


def test_all_columns_that_are_not_there_are_named(refused):
    said = refused(TABLE, task="tsk", arm="amr", seed="sede", score="ac", vary=("x",), where=("y=1",))
    assert said.startswith("6 mistakes: (1) scores.csv: --score ac: there is no such column, there are seed, arm, lr")
    assert all(f"{option}: " in said for option in ("--task tsk", "--arm amr", "--seed sede", "--vary x", "--where y"))
    assert said.count("there are") == 1


def test_mistakes_of_one_option_are_listed_with_the_others(refused):
    said = refused(TABLE, score="ac", where=("x=1", "y=2"), metric="=")
    assert said.startswith("4 mistakes: (1) ")
    assert said.count("mistakes") == 1


def test_all_fields_that_are_wrong_are_named_up_to_a_number(refused):
    said = refused("seed,arm,acc\nx,,0.6\n2,a,half\n3,a,0.6\n")
    assert [f"({i})" in said for i in range(1, 5)] == [True, True, True, False]
    assert all(words in said for words in (":2 column 'arm'", ":2 column 'seed'", ":3 column 'acc'"))
    said = refused("seed,arm,acc\n" + "x,a,0.6\n" * 20)
    assert said.startswith("20 mistakes: ")
    assert "(8) " in said
    assert said.endswith("; and 12 more")


def test_all_arms_that_mix_settings_are_named(refused):
    said = refused("seed,arm,lr,bs,acc\n1,a,1,8,0.6\n2,a,2,9,0.6\n1,b,1,8,0.6\n2,b,2,8,0.6\n")
    assert said.startswith("3 mistakes: ")
    assert len(re.findall("arm '[ab]' of rte mixes runs that differ in (lr|bs)", said)) == 3


def test_every_line_of_the_description_fits_the_terminal(tmp_path):
    from support.imports import PLAIN

    from stableft.records.import_csv import import_csv

    file = tmp_path / "results.csv"
    file.write_text("seed,arm,acc,val\n1,a,0.6,None\n2,a,None,0.5\n")
    said = import_csv(file, PLAIN, tmp_path / "o.jsonl").splitlines()
    assert max(map(len, said[:-1])) <= 100
    assert "the best accuracy of a constant prediction" in " ".join(line.strip() for line in said)
