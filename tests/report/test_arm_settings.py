"""What a report says of its arms: from configs, from the recipes of imported ones, in every form."""

import json

from support.paths import ROOT
from support.table_records import make_imported, make_record

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.records.run_record import write_records_file
from stableft.report.arm_settings import NAMED_AFTER_RECIPES, describe_arms
from stableft.report.build import build_report
from stableft.report.forms.latex import latex_prose
from stableft.report.forms.terminal import SCREEN_LINES, report_to_text
from stableft.report.forms.write import render_report
from stableft.report.runs import collect_runs, load_artifact, load_runs_from_file

DEMO, REPLICATION = (ROOT / f"results/records/{name}.jsonl" for name in ("demo", "zhang-replication"))
DEMO_LINES = [
    "All arms: toy-bert, 256 training rows, learning rate 1.15e-3.",
    "devlin: no bias correction, 3 epochs, batch 16, all pre-trained weights kept, weight decay 0.01, epsilon 1e-6.",
    "devlin-corrected: bias correction, 3 epochs, batch 16, all pre-trained weights kept, weight decay 0.01, "
    "epsilon 1e-6.",
    "zhang-reinit: bias correction, 3 epochs, batch 32, top 3 blocks and pooler drawn anew, no weight decay, "
    "epsilon 1e-8.",
    "mosbach: bias correction, 20 epochs, batch 16, all pre-trained weights kept, weight decay 0.01, epsilon 1e-6.",
]


def describe(path):
    runs = load_runs_from_file(path)
    return describe_arms(runs, list(runs.by_arm_task))


def test_every_form_says_what_the_arms_are():
    report = build_report(load_runs_from_file(DEMO))
    drawn_elsewhere = b'<svg viewBox="0 0 1 1"></svg>'  # test_shipped.py
    report.svg_cache.update(dict.fromkeys(report.figures, drawn_elsewhere))
    assert json.loads(render_report(report, "json"))["arms"] == DEMO_LINES
    for form in ("md", "html", "latex", "json", "text"):
        text = " ".join(render_report(report, form).replace("\u00a0", " ").split())
        for line in DEMO_LINES:
            assert text.count(latex_prose(line) if form == "latex" else line) == 1, form


def test_imported_arms_get_what_their_recipes_determine():
    assert describe(REPLICATION) == [
        NAMED_AFTER_RECIPES,
        "All arms: 3 epochs, batch 32, learning rate 2e-5.",
        "zhang-bertadam: no bias correction, all pre-trained weights kept.",
        "zhang: bias correction, all pre-trained weights kept.",
        "zhang-reinit: bias correction, top 5 blocks and pooler drawn anew.",
    ]


def test_of_other_imported_arms_nothing_is_guessed(tmp_path):
    records = [make_imported(arm="baseline"), make_record(arm="mine", recipe="mine")]
    write_records_file(tmp_path / "theirs.jsonl", records)
    assert describe(tmp_path / "theirs.jsonl") == [
        "Arms with known settings: bert-large-uncased, all training rows, bias correction, 3 epochs, batch 16, "
        "learning rate 2e-5.",
        "baseline: no settings are recorded.",
    ]


def test_tasks_with_other_settings_have_lines_of_their_own(tmp_path):
    records = [make_record(task=task, arm=arm, lr=lr) for arm in "ab" for task, lr in (("rte", 1e-5), ("cola", 0.02))]
    write_records_file(tmp_path / "mine.jsonl", [records[0], records[1], make_record(arm="b", task="rte", lr=3e-5)])
    assert describe(tmp_path / "mine.jsonl")[1:] == [
        "a on rte: learning rate 1e-5.",
        "a on cola: learning rate 0.02.",
        "b: learning rate 3e-5.",
    ]


def test_a_planned_arm_has_the_settings_of_its_sweep():
    artifact, planned = load_artifact("mosbach-table1", lambda path: load_sweep(path, LocalPaths()))
    runs = collect_runs(artifact, planned, [])
    assert describe_arms(runs, list(runs.planned)) == [
        "All arms: bert-large-uncased, all training rows, batch 16, learning rate 2e-5.",
        "devlin: no bias correction, 3 epochs, no Mixout, dropout 0.1.",
        "mosbach-mixout: no bias correction, 3 epochs, Mixout 0.9, dropout 0.",
        "mosbach: bias correction, 20 epochs, no Mixout, dropout 0.1.",
    ]


def test_a_setting_that_means_something_with_another_alone_is_named_where_that_is_shared(tmp_path):
    first = make_record(arm="a")
    section = first.config.optimizer
    configs = {
        arm: first.config.model_copy(update={"optimizer": optimizer})
        for arm, optimizer in (("a", section), ("b", section.model_copy(update={"decay_order": "before"})))
    }
    records = [
        first.model_copy(update={"arm": arm, "run_id": config.run_id, "config": config})
        for arm, config in configs.items()
    ]
    write_records_file(tmp_path / "mine.jsonl", records)
    lines = describe(tmp_path / "mine.jsonl")
    assert lines[1:] == ["a: optimizer.decay_order after.", "b: optimizer.decay_order before."]


def test_the_terminal_shows_the_arms_where_one_screen_holds_them():
    demo, replication = (build_report(load_runs_from_file(path)) for path in (DEMO, REPLICATION))
    text = report_to_text(demo)
    assert len(text.splitlines()) < SCREEN_LINES
    assert "mosbach: bias correction, 20 epochs" in text
    assert "bias correction" not in report_to_text(replication)
    assert "- zhang: bias correction" in report_to_text(replication, notes=True)
