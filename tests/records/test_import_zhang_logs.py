"""The released code's log files come in as the table that was made of them does; runs that are not whole are named."""

import math
import re
import shutil
from pathlib import Path

import pytest
from support.paths import FILES

from stableft.errors import UserError
from stableft.records.import_csv import import_csv
from stableft.records.import_mapping import TableMapping
from stableft.records.import_zhang_logs import import_zhang_logs
from stableft.records.run_record import ImportedEval, read_records_file

DATA = FILES / "per-seed"  # made up, in the layouts of real files
RAW = "raw_log.txt"
RUNS = [
    ("mrpc", "debiased", 0, False),
    ("mrpc", "plain", 0, True),
    ("rte", "debiased", 0, False),
    ("rte", "debiased", 10, False),
    ("rte", "plain", 0, True),
    ("rte", "plain", 9, False),
    ("stsb", "debiased", 3, False),
    ("stsb", "plain", 3, True),
]


@pytest.fixture
def logs(tmp_path) -> Path:
    """A copy of the made-up logs that a test may damage."""
    folder = tmp_path / "bert_output"
    shutil.copytree(DATA / "zhang-logs", folder)
    return folder


def take(folder: Path, out: Path, **options):
    said = import_zhang_logs(folder, out / "out.jsonl", **options).replace("\n  ", " ")
    return list(read_records_file(out / "out.jsonl")), said


def test_the_runs_of_a_folder_of_logs(logs, tmp_path):
    records, said = take(logs, tmp_path)
    assert [(run.task, run.arm, run.seed, run.failed) for run in records] == RUNS
    run = records[3]
    assert (run.metric, run.split, run.report, run.steps, run.baseline) == ("accuracy", "test", "last", 104, 73 / 139)
    assert run.evals[1] == ImportedEval(step=100, train_loss=0.608063, val_loss=0.592545, val={"accuracy": 0.731884})
    assert (run.last.step, run.last.val, run.last.test) == (104, {"accuracy": 0.673913}, {"accuracy": 0.7122})
    assert (run.best.step, run.best.val, run.best.test) == (100, {"accuracy": 0.731884}, {"accuracy": 0.7338})
    assert (run.source.kind, run.source.name) == ("zhang-logs", "bert_output")
    assert "8 runs of bert_output (sha256 " + run.source.sha256 in said
    assert "rte   plain     last test accuracy  2     0,9    0    1/2" in said
    assert (
        "mrpc: failed is a score that is NaN or at most 0.8116, the best F1 of a constant prediction on the half"
        in said
    )


def test_every_metric_is_kept_and_accuracy_chooses_the_best_checkpoint(logs, tmp_path):
    run = take(logs, tmp_path)[0][0]
    assert run.metric == "f1"
    assert run.last.test == {"accuracy": 0.8537, "f1": 0.8958, "accuracy_f1": 0.8747}
    assert run.best.step == 9  # by F1 it would be 18
    assert run.best.val == {"accuracy": 0.847291, "f1": 0.8891, "accuracy_f1": 0.868195}


def test_a_run_that_diverged_has_no_best_evaluation_but_the_last(logs, tmp_path):
    run = take(logs, tmp_path)[0][-1]
    assert run.failed
    assert math.isnan(run.last.test["spearman"])
    assert (run.best.step, run.best.val.keys()) == (16, {"pearson", "spearman"})
    assert math.isnan(run.best.val["spearman"])
    assert all(math.isnan(point.train_loss) for point in run.evals)


@pytest.mark.parametrize("checkpoint", ["last", "best"])
@pytest.mark.parametrize(("task", "metric"), [("RTE", "acc"), ("STS-B", "spearmanr")])
def test_the_table_that_was_made_of_the_logs_gives_the_same_runs(logs, tmp_path, checkpoint, task, metric):
    from_logs = [run for run in take(logs, tmp_path)[0] if run.task == {"RTE": "rte", "STS-B": "stsb"}[task]]
    mapping = TableMapping(
        task="dataset",
        arm="method",
        seed="seed",
        score=f"test_{metric}",
        val=f"val_{metric}",
        val_where=("filetype=raw_log",),
        train_loss="loss",
        step="step",
        where=(f"dataset={task}", f"filetype=test_{checkpoint}_log"),
        checkpoint=checkpoint,
    )
    import_csv(DATA / "results.csv", mapping, tmp_path / "csv.jsonl")
    from_table = list(read_records_file(tmp_path / "csv.jsonl"))
    assert len(from_table) == len(from_logs) >= 2
    for run, other in zip(from_table, from_logs, strict=True):
        for name in ("task", "arm", "seed", "metric", "split", "baseline", "failed", "steps"):
            assert getattr(run, name) == getattr(other, name), name
        assert _numbers(run, run.metric, checkpoint) == _numbers(other, run.metric, checkpoint)


def _numbers(run, metric: str, checkpoint: str) -> str:
    """Returns all numbers that both layouts have, as text, in which NaN is equal to NaN."""
    chosen = run.last if checkpoint == "last" else run.best
    evals = [(point.step, point.val[metric], point.train_loss or math.nan) for point in run.evals]
    ends = [(scores.step, scores.val[metric]) for scores in (run.last, run.best)]
    return repr((evals, ends, chosen.test[metric])).replace("None", "nan")


@pytest.mark.parametrize("place", [".", "plain", "plain/RTE", "plain/RTE/SEED9", ".."])
def test_the_folder_may_be_one_of_several_levels(logs, tmp_path, place):
    records, _ = take(logs / place, tmp_path)
    expected = [run for run in RUNS if place in (".", "..") or run[1] == "plain"]
    if "RTE" in place:
        expected = [run for run in expected if run[0] == "rte" and ("SEED" not in place or run[2] == 9)]
    assert [(run.task, run.arm, run.seed, run.failed) for run in records] == expected


def test_the_hash_is_that_of_the_logs_wherever_they_are(logs, tmp_path, monkeypatch):
    first = take(logs, tmp_path)[0]
    written = (tmp_path / "out.jsonl").read_bytes()
    monkeypatch.chdir(logs)
    take(Path("."), tmp_path)
    assert (tmp_path / "out.jsonl").read_bytes() == written
    assert take(logs.parent, tmp_path)[0][0].source.sha256 == first[0].source.sha256
    (logs / "plain" / "RTE" / "SEED9" / "training_args.bin").write_bytes(b"not a log")
    assert take(logs, tmp_path)[0][0] == first[0]
    file = logs / "plain" / "RTE" / "SEED9" / "test_last_log.txt"
    file.write_text(file.read_text().replace("0.7050", "0.7051"))
    changed = take(logs, tmp_path)[0]
    assert changed[0].source.sha256 != first[0].source.sha256
    assert changed[0].run_id != first[0].run_id


def test_arms_are_renamed_and_the_best_checkpoint_is_reported_where_wanted(logs, tmp_path):
    records, said = take(logs, tmp_path, rename=("debiased=zhang",), checkpoint="best")
    assert {run.arm for run in records} == {"plain", "zhang"}
    assert {run.report for run in records} == {"best"}
    assert "arm zhang is debiased in bert_output" in said
    assert "rte   zhang  best test accuracy" in said
    assert re.search("runs whose best checkpoint .*test scores", said)
    assert "runs whose best checkpoint" not in take(logs, tmp_path)[1]


def test_folders_behind_links_are_found_once(logs, tmp_path):
    shutil.move(logs / "plain", tmp_path / "elsewhere")
    (logs / "plain").symlink_to(tmp_path / "elsewhere")
    (logs / "plain" / "RTE" / "loop").symlink_to(logs)
    assert [(run.task, run.arm, run.seed, run.failed) for run in take(logs, tmp_path)[0]] == RUNS


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "facts"),
    [
        (RAW, "0.608063,100.000000,\n", "0.60", r"raw_log\.txt:3 .*cut off"),
        (RAW, "0.000000,0.490800,104.000000,\n", "0.000000,0.490800,104", r"raw_log\.txt:4 is cut off"),
        (RAW, "0.673913,0.554218,0.731884,0.000000,0.490800,104.000000,\n", "", r"raw_log\.txt ends .*step 100"),
        (RAW, "0.731884,0.592545,0.731884,0.000010,0.608063,100.000000,\n", "", r"0\.673913 .*all: lines .*missing"),
        (RAW, "104.000000", "90.000000", "step 90 follows step 100.*file .*lines .*two runs"),
        (RAW, "val_acc", "val_mse", "columns .*step, loss, val_loss and val_acc"),
        (RAW, "0.592545", "half", r"raw_log\.txt:3 column 'val_loss': 'half' .*number"),
        (RAW, "0.731884", "73.1884", r"accuracy .*fraction.* 73\.1884"),
        (RAW, "0.592545", "ö", r"raw_log\.txt: .*file .*not text"),
        ("test_last_log.txt", "0.7122,0.6917,104.0000", "", "file .*cut off: .*no line .*scores"),
        ("test_last_log.txt", "0.7122,0.6917,104.0000", "0.71", r"test_last_log\.txt:2 is cut off"),
        ("test_last_log.txt", "0.7122,0.6917,104.0000", "0.7122,0.6917,", "test_step': '' .*whole number"),
        ("test_best_log.txt", "test_acc", "test_mcc", "no accuracy among test_mcc, test_loss, test_step"),
        ("test_best_log.txt", "test_step", "test_stop", "one line .*scores .*test_step"),
    ],
)
def test_a_run_that_is_not_whole_is_left_out_by_name(logs, tmp_path, file, old, new, facts):
    _edit(logs / "debiased" / "RTE" / "SEED10" / file, old, new)
    records, said = take(logs, tmp_path)
    assert [(run.task, run.arm, run.seed, run.failed) for run in records] == [*RUNS[:3], *RUNS[4:]]
    line = said.splitlines()[-2]
    assert line.startswith("left out: debiased rte seed 10: ")
    assert re.search(facts, line)


@pytest.mark.parametrize("file", [RAW, "test_last_log.txt", "test_best_log.txt"])
def test_a_run_without_one_of_its_files_is_left_out_by_name(logs, tmp_path, file):
    (logs / "plain" / "MRPC" / "SEED0" / file).unlink()
    records, said = take(logs, tmp_path)
    assert len(records) == len(RUNS) - 1
    path = logs / "plain" / "MRPC" / "SEED0" / file
    assert re.search(f"left out: plain mrpc seed 0: {path}: .*no such file", said)


def test_a_run_that_was_done_twice_is_left_out(logs, tmp_path):
    path = logs / "plain" / "RTE" / "SEED0" / RAW
    path.write_text(path.read_text() + "".join(path.read_text().splitlines(keepends=True)[1:]))
    assert re.search("step 90 follows step 104.*file .*lines .*two runs", take(logs, tmp_path)[1])


def test_folders_without_a_whole_run_are_refused(logs, tmp_path):
    out = tmp_path / "out.jsonl"
    for place in ("nope", "plain/RTE/SEED0/raw_log.txt"):
        with pytest.raises(UserError, match="no such folder"):
            import_zhang_logs(logs / place, out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no folder METHOD/TASK/SEED<k>"):
        import_zhang_logs(tmp_path / "empty", out)
    run = logs / "plain" / "RTE" / "SEED0"
    (run / RAW).unlink()
    with pytest.raises(UserError, match=r"no run of 1 .*left out: plain rte seed 0: .*raw_log\.txt"):
        import_zhang_logs(run, out)
    assert not out.exists()


def test_a_run_that_is_there_twice_is_refused(logs, tmp_path):
    shutil.copytree(logs / "plain" / "RTE" / "SEED9", logs / "plain" / "RTE" / "SEED09")
    with pytest.raises(UserError, match=r"plain rte seed 9 .*twice.*SEED09 .*SEED9"):
        import_zhang_logs(logs, tmp_path / "out.jsonl")
    shutil.rmtree(logs / "plain" / "RTE" / "SEED09")
    shutil.copytree(logs / "plain", logs / "old" / "plain")
    with pytest.raises(UserError, match="is there twice"):
        import_zhang_logs(logs, tmp_path / "out.jsonl")


def test_places_and_names_that_cannot_be_used_are_refused(logs, tmp_path):
    with pytest.raises(UserError, match=r"name .*end .*\.jsonl"):
        import_zhang_logs(logs, tmp_path / "out.csv")
    with pytest.raises(UserError, match=r"no arm 'plan'.*debiased, plain.*'plain'"):
        import_zhang_logs(logs, tmp_path / "out.jsonl", ("plan=x",))


def test_a_task_of_ones_own_is_scored_by_the_metric_that_chose_the_checkpoint(logs, tmp_path):
    (logs / "plain" / "RTE").rename(logs / "plain" / "mine")
    run = next(run for run in take(logs, tmp_path)[0] if run.task == "mine")
    assert (run.metric, run.baseline, run.failed) == ("accuracy", None, None)
    records, said = take(logs / "plain" / "mine", tmp_path, baseline=("0.9",), rows=("50",))
    assert [(run.baseline, run.rows, run.failed) for run in records] == [(0.9, 50, True)] * len(records)
    assert "mine: failed is a score that is NaN or at most 0.9000, as --baseline says" in said


def test_runs_of_a_task_with_two_metrics_are_refused(logs, tmp_path):
    (logs / "plain" / "RTE").rename(logs / "plain" / "mine")
    (logs / "debiased" / "STS-B").rename(logs / "debiased" / "mine")
    with pytest.raises(UserError, match=r"logs of debiased mine seed 3 report spearman and .* seed 0 accuracy; .*one"):
        take(logs, tmp_path)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_column_that_is_there_twice_is_named(logs, tmp_path):
    file = logs / "plain" / "RTE" / "SEED9" / RAW
    file.write_text(file.read_text().replace("val_loss", "loss", 1))
    assert re.search(r"plain rte seed 9: .*raw_log\.txt: the header names a column twice", take(logs, tmp_path)[1])
