"""Other people's tables come in with their values unchanged, or not at all and with a sentence that says why."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.imports import PLAIN, scores
from support.paths import FILES

from stableft.catalog.tasks import find_task
from stableft.errors import UserError
from stableft.records.failure import known_constant_score
from stableft.records.import_csv import import_csv
from stableft.records.import_mapping import TableMapping
from stableft.records.import_runs import find_known_task, metric_in_name
from stableft.records.run_record import dump_record, read_records_file

RESULTS = FILES / "per-seed" / "results.csv"  # made up, in the layout of a real file
REPLICATION = TableMapping(
    task="dataset",
    arm="method",
    seed="seed",
    score="test_acc",
    val="val_acc",
    val_where=("filetype=raw_log",),
    train_loss="loss",
    step="step",
    where=("dataset=RTE", "filetype=test_last_log"),
)


def replicate(tmp_path, **changes):
    out = tmp_path / "out.jsonl"
    said = import_csv(RESULTS, replace(REPLICATION, **changes), out).replace("\n  ", " ")
    return list(read_records_file(out)), said


# ---- what a simple table becomes


def test_a_run_is_known_by_what_stands_in_its_row(take):
    records, said = take("seed,arm,acc\n2,b,0.7\n1,b,0.5252\n1,a,0.6\n")
    assert [(run.task, run.arm, run.seed) for run in records] == [("rte", "a", 1), ("rte", "b", 1), ("rte", "b", 2)]
    assert scores(records) == [0.6, 0.5252, 0.7]
    first = records[0]
    assert (first.metric, first.split, first.report, first.failed) == ("accuracy", "test", "last", False)
    assert first.baseline == 73 / 139
    assert (first.evals, first.best, first.steps) == ((), None, None)
    assert (first.source.kind, first.source.name) == ("csv", "scores.csv")
    assert first.source.sha256 in said
    assert "rte   b    last test accuracy  2     1-2    0    1/2" in said
    assert re.search(r"failed .*score .*NaN .*most 0\.5252", said)
    assert "\nreports compare with a, or with --against ARM\n" in said
    assert said.splitlines()[-1].startswith("wrote ")
    assert said.endswith("out.jsonl")


def test_ids_depend_on_the_run_and_the_file_and_not_on_the_new_name(take):
    text = "seed,arm,acc\n1,a,0.6\n1,b,0.6\n2,a,0.6\n"
    ids = [run.run_id for run in take(text)[0]]
    assert len(set(ids)) == 3
    assert all(len(run_id) == 16 and int(run_id, 16) >= 0 for run_id in ids)
    assert [run.run_id for run in take(text, rename=("a=c",))[0]] == [ids[2], ids[0], ids[1]]
    assert not set(ids) & {run.run_id for run in take(text + "9,a,0.6\n")[0]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "seed,arm,acc,\n1,a,0.6,\n"),
        ("b.csv", "seed,arm,acc,\n1,a,0.6\n"),
        ("c.csv", "seed,arm,acc\n1,a,0.6,\n"),
        ("d.csv", ",Unnamed: 1,seed,arm,acc,Unnamed: 5\n0,,1,a,0.6\n"),
        ("e.csv", "\ufeffseed,arm,acc\r\n1,a,0.6\r\n"),
        ("f.tsv", "seed\tarm\tacc\n1\ta\t0.6\n\n,\n".replace(",", "\t")),
        ("g.csv", "seed, arm, acc\n1, a, 0.6\n"),
        ("h.csv", 'seed,arm,acc,note\n1,a,0.6,"two\nlines, a comma"\n'),
        ("i.CSV", "seed,arm,acc,x,x\n1,a,0.6,,\n"),
        ("j.csv", "seed,arm,acc\n1.0,a,0.60"),
    ],
)
def test_junk_columns_marks_and_blanks_are_harmless(take, name, text):
    records, _ = take(text, name=name)
    assert [(run.arm, run.seed) for run in records] == [("a", 1)]
    assert scores(records) == [0.6]


def test_values_that_pandas_would_change_stay_as_they_are(take):
    text = "seed,arm,acc\n1,007,0.6\n1,1e5,0.6\n1,None,0.6\n1,True,0.6\n"
    assert [run.arm for run in take(text)[0]] == ["007", "1e5", "None", "True"]


@pytest.mark.parametrize(
    ("written", "name"), [("rte", "rte"), ("STS-B", "stsb"), ("sst2", "sst2"), ("cola", "cola"), ("Toy RTE", "toy-rte")]
)
def test_tasks_are_known_by_name_and_title(written, name):
    task = find_known_task(written)
    assert task is not None
    assert task.name == name


def test_a_task_of_ones_own_keeps_its_name_and_has_no_baseline(take):
    text = "seed,arm,acc,bleu\n1,a,0.6,0.3\n2,a,,\n"
    records, said = take(text, task="=my task")
    assert [(run.task, run.metric, run.failed, run.baseline) for run in records] == [
        ("my task", "accuracy", None, None),
        ("my task", "accuracy", True, None),  # NaN fails whatever the baseline
    ]
    assert "not known; --baseline" in said
    assert take(text, task="=my task", score="bleu")[0][0].metric == "score"
    assert take(text, task="=my task", score="bleu", metric="bleu")[0][0].metric == "bleu"
    assert [run.failed for run in take(text, task="=my task", baseline=("0.6",))[0]] == [True, True]


# ---- the layout of a real replication


def test_score_rows_and_evaluation_rows_make_a_run(tmp_path):
    records, said = replicate(tmp_path)
    assert [(run.arm, run.seed, run.failed) for run in records] == [
        ("debiased", 0, False),
        ("debiased", 10, False),
        ("plain", 0, True),
        ("plain", 9, False),
    ]
    run = records[1]
    assert [(point.step, point.val, point.train_loss) for point in run.evals] == [
        (90, {"accuracy": 0.615942}, 0.258896),
        (100, {"accuracy": 0.731884}, 0.608063),
        (104, {"accuracy": 0.673913}, 0.4908),
    ]
    assert (run.last.step, run.last.val, run.last.test) == (104, {"accuracy": 0.673913}, {"accuracy": 0.7122})
    assert (run.best.step, run.best.val, run.best.test) == (100, {"accuracy": 0.731884}, None)
    assert run.steps == 104
    assert "plain     last test accuracy  2     0,9    0    1/2" in said


def test_the_best_checkpoints_rows_can_be_the_ones_that_are_reported(tmp_path):
    records, _ = replicate(tmp_path, where=("dataset=RTE", "filetype=test_best_log"), checkpoint="best")
    run = records[1]
    assert (run.report, run.best.step, run.best.test) == ("best", 100, {"accuracy": 0.7338})
    assert (run.last.step, run.last.val, run.last.test) == (104, {"accuracy": 0.673913}, None)


def test_a_failed_run_is_compared_to_as_many_digits_as_are_printed(tmp_path):
    records, said = replicate(
        tmp_path, where=("dataset=MRPC", "filetype=test_last_log"), score="test_f1", val="val_acc"
    )
    baseline = known_constant_score(find_task("mrpc"), "test", "f1")
    assert [(run.arm, run.failed, run.baseline) for run in records] == [
        ("debiased", False, baseline),
        ("plain", True, baseline),  # 0.8116 is 280/345 = 0.81159
    ]
    assert records[0].best.val == {"accuracy": 0.847291}
    assert records[0].best.step == 9  # by accuracy; by F1 it would be the last
    assert re.search("val_acc .*read .*accuracy", said)


def test_a_nan_is_kept_and_failed(tmp_path):
    where = ("dataset=STS-B", "filetype=test_last_log")
    records, said = replicate(tmp_path, where=where, score="test_spearmanr", val="val_spearmanr")
    assert [(run.arm, run.metric, run.failed) for run in records] == [
        ("debiased", "spearman", False),
        ("plain", "spearman", True),
    ]
    assert math.isnan(scores(records)[1])
    assert math.isnan(records[1].best.val["spearman"])
    assert (records[1].best.step, records[1].evals[0].train_loss) == (16, None)
    assert "plain     last test spearman  1     3      1    1/1" in said


def test_several_tasks_come_in_at_once_where_the_metric_is_that_of_all(take):
    text = "data,seed,arm,acc\nRTE,1,a,0.6\nQNLI,1,a,0.5\nSST-2,1,a,0.6\n"
    records, said = take(text, task="data")
    assert [(run.task, run.failed) for run in records] == [("qnli", True), ("rte", False), ("sst2", False)]
    assert re.search(r"qnli: failed .*score .*NaN .*most 0\.5054", said)


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing_but_the_files_hash(tmp_path_factory, random):
    folder = tmp_path_factory.mktemp("permuted")
    header, *rows = RESULTS.read_text().splitlines(keepends=True)
    random.shuffle(rows)
    (folder / "results.csv").write_text(header + "".join(rows))
    written = []
    for file in (RESULTS, folder / "results.csv"):
        import_csv(file, REPLICATION, folder / "out.jsonl")
        records = list(read_records_file(folder / "out.jsonl"))
        source = records[0].source.model_copy(update={"sha256": ""})
        written.append([dump_record(run.model_copy(update={"run_id": "", "source": source})) for run in records])
    assert written[0] == written[1]


# ---- evaluations


LOG = "kind,seed,arm,step,val,loss,acc\n"


def test_steps_are_numbers_in_any_order(take):
    text = LOG + "e,1,a,100,0.6,,\ne,1,a,9,0.8,0.3,\nt,1,a,,,,0.7\ne,1,a,10.0,nan,nan,\n"
    mapping = {"val": "val", "val_where": ("kind=e",), "where": ("kind=t",), "step": "step", "train_loss": "loss"}
    (run,), _ = take(text, **mapping)
    assert [point.step for point in run.evals] == [9, 10, 100]
    assert math.isnan(run.evals[1].val["accuracy"])
    assert run.evals[0].train_loss == 0.3
    assert math.isnan(run.evals[1].train_loss)
    assert run.evals[2].train_loss is None
    assert (run.last.val["accuracy"], run.best.val["accuracy"], run.best.step, run.steps) == (0.6, 0.8, 9, 100)


def test_a_validation_score_may_stand_in_the_row_of_the_score(take):
    text = "seed,arm,acc,val,step,loss\n1,a,0.6,0.7,90,0.1\n"
    (run,), _ = take(text, val="val")
    assert (run.evals, run.last.step, run.last.val, run.best) == ((), None, {"accuracy": 0.7}, None)
    (run,), _ = take(text, val="val", step="step", train_loss="loss")
    assert [(point.step, point.train_loss) for point in run.evals] == [(90, 0.1)]
    assert (run.last.step, run.steps) == (90, 90)
    (run,), _ = take(text, val="val", step="=120", checkpoint="best")
    assert (run.last, run.best.step, run.best.val, run.best.test, run.steps) == (
        None,
        120,
        {"accuracy": 0.7},
        {"accuracy": 0.6},
        None,
    )


def test_the_score_may_be_the_validation_score(take):
    text = "seed,arm,acc,val_f1\n1,a,0.527,0.7\n"
    (run,), said = take(text, split="val")
    assert (run.last.val, run.last.test, run.baseline, run.failed) == ({"accuracy": 0.527}, None, 146 / 277, True)
    assert re.search("best accuracy of a constant prediction .*dev set", said)
    (run,), _ = take(text, split="val", val="val_f1")
    assert run.last.val == {"accuracy": 0.527, "f1": 0.7}


@pytest.mark.parametrize(
    ("rows", "changes", "facts"),
    [
        ("e,1,a,9,0.5,,\ne,1,a,10,0.5,,\nt,1,a,,,,0.7\n", {"step": None}, "lines 2 .*3.*--step COLUMN"),
        ("e,1,a,9,0.5,,\ne,1,a,9.0,0.5,,\nt,1,a,,,,0.7\n", {}, "two evaluations at step 9, on lines 2 and 3"),
        ("e,1,a,9.5,0.5,,\nt,1,a,,,,0.7\n", {}, r"scores\.csv:2 column 'step': '9\.5' .*whole number"),
        ("e,1,a,,0.5,,\nt,1,a,,,,0.7\n", {}, r"scores\.csv:2 column 'step': '' .*whole number"),
        ("e,1,a,9,,,\nt,1,a,,,,0.7\n", {}, "--val val: .*column .*empty"),
        ("e,1,a,9,0.5,,\nt,1,a,,,,0.7\nt,2,a,,,,0.7\n", {}, r"1 .*score .*no evaluation \(a rte seed 2\)"),
        ("e,1,a,9,0.5,,\ne,2,a,9,0.5,,\nt,1,a,,,,0.7\n", {}, r"1 .*evaluations .*no score \(a rte seed 2\)"),
        ("t,1,a,,,,0.7\n", {}, "--val-where kind=e: no row .*value.*'t'"),
        ("e,1,a,9,0.5,,\nt,1,a,,,,0.7\n", {"val": None}, "--val-where: --val .*--train-loss"),
        ("t,1,a,9,0.5,0.1,0.7\n", {"val_where": (), "train_loss": "loss", "step": None}, "--train-loss loss: --step"),
        ("t,1,a,9,0.5,0.1,0.7\n", {"val_where": (), "split": "val"}, "leave --val out"),
        ("t,1,a,9,0.5,0.1,0.7\n", {"val_where": (), "val": "loss"}, "--val loss: .*loss .*no score"),
    ],
)
def test_evaluations_that_are_not_those_of_the_runs_are_refused(refused, rows, changes, facts):
    mapping = {"val": "val", "val_where": ("kind=e",), "where": ("kind=t",), "step": "step"} | changes
    assert re.search(facts, refused(LOG + rows, **mapping))


def test_runs_without_a_score_are_left_out_by_name_where_that_is_allowed(take):
    rows = "e,1,a,9,0.5,,\ne,2,a,9,0.5,,\nt,1,a,,,,0.7\nt,3,a,,,,0.6\n"
    mapping = {"val": "val", "val_where": ("kind=e",), "where": ("kind=t",), "step": "step", "allow_missing": True}
    records, said = take(LOG + rows, **mapping)
    assert [(run.seed, run.last.val) for run in records] == [(1, {"accuracy": 0.5}), (3, {})]
    assert re.search(r"runs left out: 1 .*evaluations .*no score \(a rte seed 2\)", said)
    assert re.search(r"runs kept: 1 .*score .*no evaluation \(a rte seed 3\)", said)


def test_runs_of_other_lengths_are_told_of(take):
    rows = "t,1,a,9,,,0.7\nt,2,a,9,,,0.7\nt,3,a,8,,,0.7\n"
    assert re.search(r"a on rte .*steps: 8 \(1 runs\), 9 \(2 runs\)", take(LOG + rows, step="step")[1])


# ---- scales and numbers


@pytest.mark.parametrize("scale", [None, "percent"])
def test_percent_gives_the_same_scores_as_fractions(take, scale):
    fractions, _ = take("seed,arm,acc,val\n1,a,0.5252,0.1\n2,a,0.7194,1\n3,a,0,0.3\n", val="val")
    percent, said = take("seed,arm,acc,val\n1,a,52.52,10\n2,a,71.94,100\n3,a,0,30\n", val="val", scale=scale)
    assert scores(percent) == scores(fractions) == [0.5252, 0.7194, 0.0]
    assert [run.failed for run in percent] == [run.failed for run in fractions] == [True, False, True]
    assert [run.last.val for run in percent] == [run.last.val for run in fractions]
    assert re.search("acc .*read .*accuracy.*percent", said)


@pytest.mark.parametrize(
    ("values", "changes", "facts"),
    [
        (["0.6", "71.2", "0.7"], {}, r"fractions \(line 2 .* 0\.6, line 4 .* 0\.7\) .*percent \(line 3"),
        (["60", "1"], {}, r"fractions \(line 3 .* 1\)"),
        (["0.6", "71.2"], {"scale": "fraction"}, r"fraction cannot .*above 1 \(--scale fraction\), line 3 .* 71\.2"),
        (["0.6", "71.2"], {"scale": "percent"}, r"1 % .*less .*fraction \(--scale percent\), line 2 .* 0\.6"),
        (["60", "101"], {"scale": "percent"}, "fraction .*percentage, line 3 .* 101"),
        (["60", "5252"], {}, "fraction .*percentage, line 3 .* 5252"),
        (["0.6", "-0.1"], {}, r"accuracy .*F1 cannot .*negative, line 3 .*-0\.1"),
        (["0.6"] * 5 + ["60"], {}, r"line 4 .* 0\.6 .* 2 more"),
    ],
)
def test_scores_on_two_scales_or_none_are_refused(refused, values, changes, facts):
    text = "seed,arm,acc\n" + "".join(f"{i},a,{value}\n" for i, value in enumerate(values))
    said = refused(text, **changes)
    assert re.search(facts, said)
    assert said.startswith("scores.csv: column 'acc': ")


def test_correlations_may_be_small_in_percent_if_the_user_says_so(take, refused):
    text = "seed,arm,mcc\n1,a,0.4\n2,a,60.5\n3,a,-0.2\n4,a,7.3\n"
    mapping = {"task": "=CoLA", "score": "mcc"}
    assert "say --scale percent if all are" in refused(text, **mapping)
    records, said = take(text, **mapping, scale="percent")
    assert scores(records) == [0.004, 0.605, -0.002, 0.073]
    assert [run.failed for run in records] == [True, False, True, False]  # 1.645 / sqrt(522) is .072
    assert "at most 0.0720, which is not above zero beyond noise: 1.645 / sqrt(n) of the 522 rows of the half" in said


@pytest.mark.parametrize("value", ["inf", "-inf", "n.a.", "0,5", "%", "52.5%%", "1_000", "1e999", "0x1", "half"])
def test_what_is_no_number_is_refused_with_its_place(refused, value):
    said = refused(f'seed,arm,acc\n1,a,0.6\n2,a,"{value}"\n')
    assert re.match(rf"scores\.csv:3 column 'acc': {re.escape(repr(value))} .*number, nan or empty", said)


@pytest.mark.parametrize("value", ["nan", "NaN", "", " ", "-nan"])
def test_a_score_that_is_not_a_number_is_a_failed_run(take, value):
    records, said = take(f"seed,arm,acc\n1,a,0.6\n2,a,{value}\n")
    assert math.isnan(scores(records)[1])
    assert [run.failed for run in records] == [False, True]
    assert "1-2    1    1/2" in said


def test_a_column_without_any_value_is_no_column_of_scores(refused):
    said = refused("seed,arm,acc\n1,a,\n2,a,\n")
    assert re.match(r"scores\.csv: --score acc: .*column .*empty .*all chosen rows", said)


# ---- metrics


@pytest.mark.parametrize(
    ("column", "metric"),
    [
        ("test_acc", "accuracy"),
        ("Accuracy", "accuracy"),
        ("testacc", "accuracy"),
        ("test_f1", "f1"),
        ("macro-F1", "f1"),
        ("val_acc_and_f1", "accuracy_f1"),
        ("mcc", "mcc"),
        ("matthews_correlation", "mcc"),
        ("test_spearmanr", "spearman"),
        ("pearsonr", "pearson"),
        ("val_corr", "corr"),
        ("val_loss", "loss"),
        ("score", None),
        ("access", None),
        ("correct", None),
        ("f10", None),
    ],
)
def test_a_columns_name_may_say_its_metric(column, metric):
    assert metric_in_name(column) == metric


@pytest.mark.parametrize(
    ("task", "column", "facts"),
    [
        (
            "MRPC",
            "test_acc",
            "accuracy.* MRPC .*F1.*test_f1",
        ),
        ("CoLA", "test_acc", "CoLA .*MCC.*--metric accuracy"),
        ("STS-B", "corr", "STS-B .*Spearman.*--metric spearman"),
        ("RTE", "loss", "--score loss: .*loss .*no score"),
        ("mine", "loss", "--score loss: .*loss .*no score"),
    ],
)
def test_a_column_of_another_metric_is_refused(refused, task, column, facts):
    text = "seed,arm,test_acc,test_f1,corr,loss\n1,a,0.7,0.8,0.9,0.4\n"
    assert re.search(facts, refused(text, task=f"={task}", score=column))


def test_another_metric_is_taken_where_the_user_says_so(take, refused):
    text = "seed,arm,test_acc\n1,a,0.7\n"
    (run,), said = take(text, task="=MRPC", score="test_acc", metric="accuracy")
    assert (run.metric, run.last.test) == ("accuracy", {"accuracy": 0.7})
    assert run.baseline == 140 / 205
    assert re.search("test_acc .*read .*accuracy", said)


@pytest.mark.parametrize(
    ("metric", "facts"),
    [
        ("acuracy", "accuracy, f1, mcc, accuracy_f1, spearman, pearson.* 'accuracy'"),
        ("spearman", "--metric spearman: RTE .*not .*regression task"),
        (" ", "--metric: .*name .*empty"),
    ],
)
def test_a_metric_that_is_none_of_the_task_is_refused(refused, metric, facts):
    assert re.search(facts, refused("seed,arm,acc\n1,a,0.7\n", metric=metric))


# ---- what is mixed


def test_a_seed_that_is_there_twice_is_refused_with_the_columns_that_differ(refused):
    text = "seed,arm,lr,acc\n1,a,1e-5,0.6\n2,a,1e-5,0.6\n1,a,2e-5,0.7\n"
    assert re.match(
        r"scores\.csv: a rte seed 1 .*lines 2 and 4.* lr \(1e-5, 2e-5\), acc \(0\.6, 0\.7\).*--where .*--task .*--arm",
        refused(text),
    )
    assert re.search("lines 2 .* 3.*equal", refused("seed,arm,acc\n1,a,0.6\n1,a,0.6\n"))


def test_tasks_and_checkpoints_that_are_mixed_are_refused(refused):
    alone = {"val": None, "val_where": (), "train_loss": None, "step": None}
    text = RESULTS.read_text()
    said = refused(text, REPLICATION, **alone, task="=RTE", where=("filetype=test_last_log",))
    assert re.search(r"plain rte seed 0 .*lines 5 and 24.* dataset \(RTE, MRPC\), ", said)
    said = refused(
        text, REPLICATION, **alone, where=("dataset=RTE", "filetype=test_last_log", "filetype=test_best_log")
    )
    assert re.search(r"lines 5 and 6.* filetype \(test_last_log, test_best_log\), ", said)


@pytest.mark.parametrize(
    ("column", "a", "b"),
    [("lr", "1e-5", "2e-5"), ("Batch Size", "16", "32"), ("num_epochs", "3", "20"), ("dataset", "RTE", "MRPC")],
)
def test_settings_that_vary_within_an_arm_are_refused(take, refused, column, a, b):
    text = f"seed,arm,acc,{column}\n1,a,0.6,{a}\n2,a,0.6,{b}\n3,b,0.6,{b}\n"
    said = refused(text)
    assert re.search(f"arm 'a' of rte .*{column}: line 2 .*{a!r}, line 3 .*{b!r}", said)
    assert len(take(text, where=(f"{column}={b}",))[0]) == 2
    assert len(take(text, arm=column)[0]) == 3
    assert len(take(text, vary=(column,))[0]) == 3


def test_settings_may_vary_between_arms_and_evaluations(take):
    assert len(take("seed,arm,acc,lr\n1,a,0.6,1\n1,b,0.6,2\n")[0]) == 2
    text = "kind,seed,arm,step,val,learning_rate,acc\ne,1,a,1,0.6,2e-5,\ne,1,a,2,0.6,0,\nt,1,a,,,,0.7\n"
    mapping = {"val": "val", "val_where": ("kind=e",), "where": ("kind=t",), "step": "step"}
    assert len(take(text, **mapping)[0][0].evals) == 2


# ---- tables, columns and options that cannot be used


@pytest.mark.parametrize(
    ("name", "text", "facts"),
    [
        ("a.csv", "", r"a\.csv: .*file .*empty"),
        ("a.csv", "\n,,\n", r"a\.csv: .*file .*empty"),
        ("a.csv", "seed,arm,acc\n", r"a\.csv: .*file .*header .*no rows"),
        ("a.csv", "seed,arm,acc\n1,a,0.6,7\n", r"a\.csv:2 .* 4 fields .*header names 3 columns"),
        ("a.csv", "seed,arm,acc\n1,a,0.6\n\n2,a\n", r"a\.csv:4 .* 2 fields .*header names 3 columns"),
        ("a.csv", 'seed,arm,acc\n1,"a\n', r"a\.csv:2 cannot .*read .*row"),
        ("a.csv", "seed;arm;acc\n1;a;0.6\n", r"header .*separated .*';'.*\.csv file .*','"),
        ("a.tsv", "seed,arm,acc\n1,a,0.6\n", r"header .*separated .*','.*\.tsv file .*'\\t'"),
        ("a.csv", b"seed,arm,acc\n1,\xe4,0.6\n", r"a\.csv:2: .*file .*not text .*UTF-8"),
        ("a.xlsx", "", r"\.csv .*\.tsv"),
        ("a.csv", "seed,arm,acc\n1.5,a,0.6\n", r"a\.csv:2 column 'seed': '1\.5' .*whole number .* 0"),
        ("a.csv", "seed,arm,acc\n-1,a,0.6\n", r"a\.csv:2 column 'seed': '-1' .*whole number .* 0"),
        ("a.csv", "seed,arm,acc\n1,,0.6\n", r"a\.csv:2 column 'arm': .*field .*empty.*--arm"),
        ("a.csv", f"seed,arm,acc\n{2**63},a,0.6\n", "whole number .* 0"),
        ("a.csv", "seed,arm,acc,acc\n1,a,0.6,0.7\n", "--score acc: columns 3 .* 4 .*name"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(refused, name, text, facts):
    assert re.search(facts, refused(text, name=name))


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"score": "test_ac"}, "--score test_ac: .*no such column.*seed, arm, test_acc;"),
        ({"score": ""}, "--score : .*no such column"),
        ({"arm": "="}, "--arm =: .*value after ="),
        ({"seed": "=x"}, "column '=x': 'x' .*whole number"),
        ({"vary": ("lr",)}, "--vary lr: .*no such column"),
        ({"where": ("arm",)}, "--where 'arm': .*COLUMN=VALUE"),
        ({"where": ("amr=a",)}, "--where amr: .*no such column"),
        ({"where": ("arm=alfa",)}, "--where arm=alfa: no row .*value.*'alpha', 'beta';"),
        ({"where": ("arm=alpha", "arm=b")}, "--where arm=b: no row .*value"),
        ({"where": ("arm=alpha", "seed=2")}, "no row .*all .*arm=alpha .*seed=2"),
        ({"rename": ("alpha",)}, "--rename 'alpha': .*OLD=NEW"),
        ({"rename": ("alfa=x",)}, "no arm 'alfa'.*alpha, beta.*'alpha'"),
        ({"rename": ("alpha=beta",)}, "--rename: alpha .*beta .*'beta'"),
        ({"rename": ("alpha=x", "alpha=y")}, "'alpha' .*renamed .*'x'"),
    ],
)
def test_options_that_fit_no_row_are_refused(refused, changes, facts):
    mapping = {"score": "test_acc"} | changes
    assert re.search(facts, refused("seed,arm,test_acc\n1,alpha,0.6\n2,beta,0.7\n", **mapping))


def test_arms_can_be_renamed_and_even_swapped(take):
    records, said = take("seed,arm,acc\n1,a,0.6\n1,b,0.7\n", rename=("a=b", "b=a"))
    assert [(run.arm, score) for run, score in zip(records, scores(records), strict=True)] == [("a", 0.7), ("b", 0.6)]
    assert "arm b is a in scores.csv" in said


def test_several_values_of_a_condition_are_each_enough(take):
    text = "seed,arm,acc\n1,a,0.6\n1,b,0.7\n1,c,0.8\n"
    assert [run.arm for run in take(text, where=("arm=a", "arm=c"))[0]] == ["a", "c"]


def test_places_that_cannot_be_written_are_refused(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("seed,arm,acc\n1,a,0.6\n")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(file)
    for name, facts in [
        ("a.csv", "the name must end in .jsonl"),
        ("nope/out.jsonl", "there is no folder"),
        ("folder.jsonl", "is a folder"),
        ("link.jsonl", "is the file that is imported"),
    ]:
        with pytest.raises(UserError, match=facts):
            import_csv(file, PLAIN, tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        import_csv(tmp_path / "none.csv", PLAIN, tmp_path / "out.jsonl")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        import_csv(tmp_path / "b.csv", PLAIN, tmp_path / "out.jsonl")
    assert file.read_text() == "seed,arm,acc\n1,a,0.6\n"


def test_a_file_that_is_there_is_replaced_only_by_an_import_that_succeeds(take, tmp_path):
    first = take("seed,arm,acc\n1,a,0.6\n")[0]
    with pytest.raises(UserError):
        take("seed,arm,acc\n1,a,x\n")
    assert list(read_records_file(tmp_path / "out.jsonl")) == first
    records, said = take("seed,arm,acc\n1,a,0.7\n")
    assert scores(records) == [0.7]
    assert "replaced " in said
