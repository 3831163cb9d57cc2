"""What `import stableft` offers: imported when used, the numbers of the command line, sentences for mistakes."""

import ast
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.command_line import make_scored_record
from support.paths import ROOT
from support.sweep_records import save_record

import stableft as package
from stableft.config.sweep_arms import START_ARM
from stableft.records.frame import TIDY_COLUMNS, build_tidy_frame
from stableft.records.run_record import HISTORY_FILE, run_folder, write_records_file

DEMO = ROOT / "results" / "records" / "demo.jsonl"


@pytest.fixture(scope="module")
def demo() -> pd.DataFrame:
    return package.load_records(DEMO)


def test_import_loads_nothing_and_every_name_is_there():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import stableft\n"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'numpy', 'scipy', 'pydantic'} & set(sys.modules)\n"
        "missing = [name for name in stableft.__all__ if not hasattr(stableft, name)]\n"
        "print(heavy, missing, sys.modules.keys() & {'torch', 'matplotlib', 'pandas'}, stableft.__version__ > '0')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set() [] set() True\n", "")
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        package.nope  # noqa: B018


def test_no_name_is_that_of_a_subpackage():
    parts = {path.stem for path in (ROOT / "src" / "stableft").iterdir()}
    assert not parts & set(package.__all__)
    assert (ROOT / "src" / "stableft" / "py.typed").is_file()


def test_every_function_says_what_its_arguments_are():
    tree = ast.parse((ROOT / "src" / "stableft" / "python_api.py").read_text())
    for function in [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]:
        arguments = [*function.args.args, *function.args.kwonlyargs]
        assert function.returns, function.name
        assert all(argument.annotation for argument in arguments), function.name
        assert ast.get_docstring(function), function.name


def test_records_are_rows_with_every_score(demo):
    assert len(demo) == 100
    assert list(demo)[: len(TIDY_COLUMNS)] == list(TIDY_COLUMNS)
    assert list(demo)[len(TIDY_COLUMNS) :] == ["best_val_accuracy", "last_val_accuracy"]
    devlin = demo[demo.arm == "devlin"]
    assert devlin.failed.sum() == 11
    assert (devlin.score == devlin.last_val_accuracy).all()
    best = package.load_records(DEMO, score="best")
    assert (best.score == best.best_val_accuracy).all()
    assert best.score.sum() > demo.score.sum()


def test_records_of_folders_and_files_together_without_start_runs(tmp_path):
    runs = package.plan_sweep("rte", seeds=[1, 2], arms=["devlin"]).runs
    first, second = (make_scored_record(run) for run in runs)
    save_record(tmp_path, first)
    start = make_scored_record(package.plan_sweep("cola", seeds=1, arms=["devlin"]).runs[0])
    write_records_file(tmp_path / "x.jsonl", [second, start.model_copy(update={"arm": START_ARM})])
    frame = package.load_records([tmp_path, tmp_path / "x.jsonl"])
    assert frame.run_id.tolist() == [first.run_id, second.run_id]
    assert frame.seed_init.tolist() == [1, 2]


def test_the_first_finished_record_of_a_run_counts():
    run = package.plan_sweep("rte", seeds=1, arms=["devlin"]).runs[0]
    records = [make_scored_record(run, status="crashed"), make_scored_record(run, 0.6), make_scored_record(run, 0.8)]
    row = build_tidy_frame(records).iloc[0]
    assert (row.status, row.score, row.last_val_accuracy) == ("finished", 0.6, 0.6)


def test_the_comparison_is_that_of_the_command(demo, stableft):
    printed = stableft("compare", "devlin", "mosbach", "--records", DEMO)[1]
    assert str(package.compare(DEMO, "devlin", "mosbach")) + "\n" == printed
    assert str(package.compare(demo, "devlin", "mosbach")).splitlines()[:5] == printed.splitlines()[:5]
    assert stableft("compare", "mosbach", "--against", "devlin", "--records", DEMO)[1] == printed
    assert stableft("compare", "mosbach", "devlin", "--against", "devlin", "--records", DEMO)[1] == printed


def test_rows_are_selected_and_arms_renamed_in_the_data_frame(demo):
    few = demo[demo.seed_init % 2 == 0].assign(arm=lambda rows: rows.arm.replace({"devlin": "old"}))
    report = package.compare(few, "old", "mosbach")
    failed = int(few[few.arm == "old"].failed.sum())
    assert f"old      {failed}/13" in str(report)
    assert len(report.provenance.run_ids) == 26


def test_runs_of_one_sweep_are_compared(stableft, workplace):
    for settings in ({}, {"schedule.length.epochs": 1}):
        for run in package.plan_sweep("rte", settings, seeds="1-3").runs:
            save_record(workplace / "results", make_scored_record(run, 0.6 + run.config.seeds.init / 100))
    code, _, err = stableft("compare", "devlin", "mosbach")
    assert (code, "more than once" in err) == (2, True)
    options = ("--config", "rte", "--seeds", "1-3")
    code, out, _ = stableft("compare", "devlin", "mosbach", *options, "--set", "schedule.length.epochs=1")
    assert (code, "0/3" in out) == (0, True)
    assert stableft("compare", "devlin", "mosbach", *options, "--arms", "devlin")[0] == 2
    assert stableft("compare", "devlin", "mosbach", *options, "--set", "optimizer.lr=1.0")[0] == 2


def test_the_report_draws_and_shows_itself(stableft):
    from matplotlib.figure import Figure

    report = package.make_report(DEMO)
    assert str(report) + "\n" == stableft("report", DEMO)[1]
    assert isinstance(report.draw(), Figure)
    assert isinstance(report.draw("training-loss"), Figure)
    shown = report._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!DOCTYPE html&gt;')
    assert shown.count("<iframe") == shown.count("</iframe>") == 1
    with pytest.raises(package.UserError, match=r"--figure scorse: .*did you mean 'scores'"):
        report.draw("scorse")


def test_the_history_is_numbers(tmp_path):
    folder = run_folder(tmp_path, "0" * 16)
    folder.mkdir(parents=True)
    (folder / HISTORY_FILE).write_text(
        '{"step": 1, "loss": 0.5, "lr": 0.0, "grad_norm": 1}\n'
        '{"step": 2, "loss": "NaN", "lr": 0.1, "grad_norm": "Infinity"}\n'
    )
    for run, results in (("000", tmp_path), (folder, "nowhere"), ("0" * 16, tmp_path)):
        history = package.load_history(run, results)
        assert history.step.tolist() == [1, 2]
        assert history.grad_norm.tolist() == [1, math.inf]
        assert math.isnan(history.loss[1])


def test_the_failure_rate_of_plain_numbers():
    found = package.failure_rate(np.array([0.5, math.nan, 0.6, 0.7]), baseline=0.5)
    assert (found.failed, found.n, found.rate) == (2, 4, 0.5)
    assert found.interval == package.wilson_interval(2, 4)


def test_settings_are_given_as_a_mapping_or_as_typed():
    mapping = {"optimizer.lr": 2e-5, "schedule.length": {"epochs": 1}, "optimizer.betas": [0.9, 0.99]}
    typed = ["optimizer.lr=2.0e-5", "schedule.length.epochs=1", "optimizer.betas=[0.9, 0.99]"]
    one = package.plan_sweep("rte", typed[0], arms="devlin").runs
    assert one == package.plan_sweep("rte", typed[:1], arms=["devlin"]).runs
    assert package.plan_sweep("rte", mapping).runs == package.plan_sweep(Path("configs/rte.yaml"), typed).runs


@pytest.mark.parametrize(
    ("call", "facts"),
    [
        (lambda: package.load_records("nope.jsonl"), r"nope\.jsonl: .*no such records file"),
        (lambda: package.load_records("."), "this folder contains no runs"),
        (lambda: package.load_history("zz"), "run 'zz': results has no such run"),
        (lambda: package.failure_rate([], 0.5), "failure_rate: there are no scores"),
        (lambda: package.plan_sweep("rte", {"optimizer.lrr": 1}), r"--set: key 'optimizer\.lrr' .*'optimizer\.lr'"),
        (lambda: package.plan_sweep("rte", {"optimizer.lr": 10**5000}), r"optimizer\.lr: this int cannot be written"),
        (
            lambda: package.plan_sweep("rte", {"optimizer.lr": object()}),
            r"optimizer\.lr: this object cannot be written",
        ),
        (lambda: package.plan_sweep("rte", data_dir="nope"), "--data-dir nope: there is no such folder"),
        (lambda: package.make_report("rtee"), "unknown artifact 'rtee'.*'rte'|rtee"),
        (lambda: package.make_report("rte", against="x"), "--against x: .*no such arm"),
        (lambda: package.make_report("x.csv"), r"x\.csv is not a file of records"),
        (lambda: package.make_report("x.jsonl", seeds=1), r"x\.jsonl: --seeds can only select runs of a sweep file"),
        (lambda: package.compare(pd.DataFrame({"arm": ["a"]}), "a", "b"), "rows that load_records returned"),
        (lambda: package.compare(DEMO, "devlin", "mosbch"), "no arm 'mosbch'.*'mosbach'"),
        (lambda: package.run_sweep("rte", save="lst"), "save='lst': must be one of none, best, last, all; .*'last'"),
        (lambda: package.run_sweep("rte", jobs_per_device=0), "jobs_per_device=0: must be a whole number from 1"),
        (lambda: package.load_records(DEMO, score="mean"), "score='mean': must be one of recipe, last, best"),
        (lambda: package.make_report(DEMO, rule="x"), "rule='x': must be one of levene, best, better"),
        (lambda: package.compare(DEMO, "devlin", "mosbach", score="x"), "score='x': must be"),
        (lambda: package.run_sweep("rte", devices="gpu"), "--devices 'gpu' must be auto, cpu"),
    ],
)
def test_mistakes_are_sentences(workplace, call, facts):
    with pytest.raises(package.UserError, match=facts) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert not list(workplace.iterdir())


def test_an_empty_selection_has_no_arm(demo):
    with pytest.raises(package.UserError, match="there are no records"):
        package.compare(demo[demo.score > 2], "devlin", "mosbach")


@pytest.mark.slow
def test_a_script_without_a_guard_trains_and_reads(tmp_path):
    (tmp_path / "script.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n"
        "import stableft\n"
        "options = dict(results='out', settings={'schedule.length.epochs': 1}, seeds=[1, 2], devices='cpu')\n"
        "print('once', len(stableft.run_sweep('smoke', **options).finished))\n"
        "print('again', len(stableft.run_sweep('smoke', **options).finished_before))\n"
        "print('rows', len(stableft.load_records('out')))\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.split()[0] in ("once", "again", "rows")] == ["once 4", "again 4", "rows 4"]
