"""The failure watch: when it warns, of what, and that it reaches the display and the record."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from support.live_table import start_progress
from support.sweep_records import make_record, make_run
from support.training_runs import train_run

from stableft.config.planned_run import InLoopProbes, RunProgress
from stableft.records.probe_record import ModelParts
from stableft.records.run_record import FailureWatchRecord, RunRecord, VanishingGradients, dump_record, parse_record_as
from stableft.sweep.progress import (
    ProgressReported,
    RunEnded,
    RunStarted,
    SweepStarted,
    apply_event,
    describe_run_status,
    find_new_warning,
    open_display,
)
from stableft.training.failure_watch import (
    LOOKS_AVERAGED,
    NOT_LEARNT_LOSS_SHARE,
    VANISHED_RATIO,
    describe_likely_failure,
    detect_vanishing,
    find_gradient_regions,
    lower_to_top_ratio,
    summarize_failure_watch,
)

ENTROPY = math.log(2)
PARTS = ModelParts(
    embeddings=("bert.embeddings",),
    blocks=tuple(f"bert.encoder.layer.{i}" for i in range(12)),
    pooler=("bert.pooler",),
    head=("classifier",),
)
LOW = VANISHED_RATIO / 2


def looks(*ratios, loss=ENTROPY, every=10):
    return [[every * i, ratio, loss] for i, ratio in enumerate(ratios, 1)]


def test_the_ends_are_the_lower_third_and_what_is_above_the_blocks():
    names = [f"bert.encoder.layer.{i}.output.dense.weight" for i in range(12)]
    names = ["bert.embeddings.word_embeddings.weight", *names, "bert.pooler.dense.weight", "classifier.bias"]
    ends = find_gradient_regions(PARTS, names)
    assert ends.lower == (1, 2, 3, 4)  # layer.1 is not layer.10 or 11
    assert ends.top == (13, 14)
    norms = [99.0, 1.0, 2.0, 2.0, 4.0, *([99.0] * 8), 3.0, 4.0]
    assert lower_to_top_ratio(ends, norms) == pytest.approx(5 / 5)
    assert math.isnan(lower_to_top_ratio(ends, [math.inf] * 15))
    assert lower_to_top_ratio(ends, [1.0] * 13 + [0.0, 0.0]) == math.inf


def test_a_shared_block_is_the_lower_end_and_unknown_blocks_have_none():
    one = PARTS.model_copy(update={"blocks": ("albert.layer",), "pooler": ()})
    assert find_gradient_regions(one, ["albert.layer.w", "classifier.w"]).lower == (0,)
    assert find_gradient_regions(PARTS.model_copy(update={"blocks": ()}), ["classifier.w"]) is None


def test_it_warns_when_gradients_vanish_and_nothing_is_learnt():
    seen = detect_vanishing(looks(1.0, LOW, LOW, LOW), ENTROPY)
    assert (seen.step, seen.ratio, seen.loss) == (40, pytest.approx(LOW), ENTROPY)
    assert detect_vanishing(looks(1.0, LOW), ENTROPY) is None  # too few
    assert detect_vanishing(looks(1.0, LOW, LOW, 1.0), ENTROPY) is None
    assert detect_vanishing(looks(1.0, LOW, LOW, LOW, loss=NOT_LEARNT_LOSS_SHARE * ENTROPY - 1e-9), ENTROPY) is None
    assert detect_vanishing(looks(1.0, LOW, LOW, LOW, loss=NOT_LEARNT_LOSS_SHARE * ENTROPY), ENTROPY)
    assert detect_vanishing(looks(1.0, LOW, LOW, LOW, loss=math.nan), ENTROPY) is None
    assert detect_vanishing([], ENTROPY) is None


def test_where_the_ratio_is_small_from_the_start_it_must_fall_too():
    assert detect_vanishing(looks(LOW, LOW, LOW, LOW), ENTROPY) is None
    assert detect_vanishing(looks(LOW, *[LOW * VANISHED_RATIO / 2] * 3), ENTROPY)
    assert detect_vanishing(looks(50.0, *[0.5] * 3), ENTROPY) is None  # a large one counts as 1
    assert detect_vanishing(looks(math.nan, 1.0, LOW, LOW, LOW), ENTROPY)


def test_the_ratio_is_the_geometric_mean_of_the_last_looks():
    ratios = (0.5, 1e-3, 1e-2, 1e-4)
    assert detect_vanishing(looks(*ratios), ENTROPY).ratio == pytest.approx(1e-3)
    assert detect_vanishing(looks(1.0, 1e-3, 1e-3, 0.0), ENTROPY).ratio < 1e-3


def test_looks_of_skipped_steps_are_passed_over():
    seen = detect_vanishing(looks(1.0, LOW, LOW, math.nan, LOW), ENTROPY)
    assert seen.ratio == pytest.approx(LOW)
    assert detect_vanishing(looks(1.0, LOW, LOW, LOW, math.nan), ENTROPY).step == 40
    assert detect_vanishing(looks(math.nan, math.inf, LOW), ENTROPY) is None


def test_what_the_record_keeps():
    nothing = summarize_failure_watch(looks(1.0, 1.0), ENTROPY)
    assert nothing == FailureWatchRecord(nothing_learnt=ENTROPY, looks=2, first=None, last=None, at_end=False)
    found = summarize_failure_watch(looks(1.0, LOW, LOW, LOW, LOW, 1.0, 1.0), ENTROPY)  # a run that got away
    assert (found.first.step, found.last.step, found.at_end) == (40, 50, False)
    assert summarize_failure_watch(looks(1.0, LOW, LOW, LOW), ENTROPY).at_end
    record = make_record(make_run(1)).model_copy(update={"watch": found})
    assert parse_record_as(RunRecord, dump_record(record)) == record
    assert '"watch"' not in dump_record(make_record(make_run(1)))  # older records keep their checksums


def test_the_diagnosis_has_its_numbers():
    told = describe_likely_failure(VanishingGradients(step=30, ratio=0.0031, loss=0.7012), ENTROPY, 75)
    assert told.startswith("likely failed: vanishing gradients")
    assert re.findall(r"[\d.]+", told) == ["30", "75", "0.003", "0.701", "0.693"]


# In the display


def test_a_run_is_named_once_when_it_has_likely_failed(capsys):
    run = make_run(3, arm="devlin")
    events = [SweepStarted([run], 0, 0, 0, 1), RunStarted("cpu", run)]
    events += [
        ProgressReported("cpu", RunProgress(step, 9, 0.7, 0.5, warning))
        for step, warning in ((1, None), (2, "W"), (3, "W"))
    ]
    with open_display(live=False) as show:
        for event in events:
            show(event)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("] ")[2] for line in lines[2:]] == ["devlin rte seed 3: W"]


def test_the_live_table_says_so_while_it_is_so(capsys):
    from rich.console import Console

    from stableft.sweep.progress import _progress_table

    run = make_run(3, arm="devlin")
    view = start_progress([run])
    apply_event(view, RunStarted("cpu", run), 0.0)
    for warning in (None, "W", None):
        event = ProgressReported("cpu", RunProgress(1, 9, 0.7, 0.5, warning))
        assert find_new_warning(view, event) == warning
        apply_event(view, event, 1.0)
        console = Console(width=120, record=True)
        console.print(_progress_table(view))
        assert ("vanishing gradients" in console.export_text()) == (warning is not None)
    assert find_new_warning(view, ProgressReported("cpu", RunProgress(1, 9, 0.7, 0.5, "W"))) is None  # it was told


def test_the_line_of_an_ended_run_has_the_diagnosis():
    seen = VanishingGradients(step=75, ratio=0.001, loss=0.7)
    record = make_record(make_run(1), failed=True)
    found = FailureWatchRecord(nothing_learnt=ENTROPY, looks=9, first=seen, last=seen, at_end=True)
    assert describe_run_status(record.model_copy(update={"watch": found})).startswith("failed at its end")
    assert "; likely failed: vanishing gradients (at step 75" in describe_run_status(
        record.model_copy(update={"watch": found})
    )
    away = record.model_copy(update={"watch": found.model_copy(update={"at_end": False})})
    assert "likely" not in describe_run_status(away)
    assert RunEnded("cpu", make_run(1), "done", away).record is away


# In training


def test_a_run_whose_lower_blocks_get_no_gradient_is_warned_of(toy_run, toy_sources, tmp_path, monkeypatch):
    from stableft.training import setup as job

    original = job.build_model

    def cut(*arguments):
        """Makes a model that from its third batch on passes a millionth of the gradient below its upper block."""
        model, pretrained = original(*arguments)
        calls = []

        def hook(module, inputs, output):
            calls.append(output)
            return output.detach() + 1e-6 * (output - output.detach()) if len(calls) > 2 else output

        model.bert.encoder.layer[0].register_forward_hook(hook)
        return model, pretrained

    run = replace(toy_run(**{"optimizer.lr": 1e-9}), probes=InLoopProbes(grad_norms=1))
    record = train_run(run, tmp_path / "whole", toy_sources)
    assert record.watch.first is None  # nothing is learnt, but the gradients are there
    assert record.watch.looks == 14
    assert record.watch.nothing_learnt == pytest.approx(record.data.label_entropy)
    monkeypatch.setattr(job, "build_model", cut)
    record = train_run(run, tmp_path, toy_sources)
    assert record.watch.at_end
    assert record.watch.first.step in (3, 4, 2 + LOOKS_AVERAGED)
    assert record.watch.last.ratio < 1e-5
    assert train_run(toy_run(), tmp_path / "plain", toy_sources).watch is None


def test_of_regression_the_loss_of_learning_nothing_is_the_variance(toy_run, toy_sources, tmp_path):
    from stableft.config.planned_run import Execution
    from stableft.training.setup import prepare_run

    run = replace(toy_run(regression=True), probes=InLoopProbes(grad_norms=3))
    job, _ = prepare_run(run, tmp_path, toy_sources, Execution(threads=1))
    record = train_run(run, tmp_path, toy_sources)
    labels = job.splits.train.labels
    assert record.watch.nothing_learnt == pytest.approx(np.mean((labels - labels.mean()) ** 2))
