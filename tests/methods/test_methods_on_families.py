"""Every method on every family, through one sweep: what it does to the weights and rates of real, tiny runs."""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.tiny_families import OWN_FAMILIES
from torch import Tensor, nn

from stableft.catalog.model_families import BACKBONES
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.data.tokens import collate
from stableft.models.build import build_model
from stableft.models.load import find_head_modules
from stableft.models.start_weights import find_start_weights
from stableft.python_api import run_sweep
from stableft.records.run_record import HISTORY_FILE, LAST_FOLDER, RunRecord, read_record, run_folder
from stableft.seeds import batch_row_indices
from stableft.sweep.state import SweepResult
from stableft.training.run import train
from stableft.training.setup import batch_indices, prepare_run

pytestmark = pytest.mark.nightly  # one sweep of more than two hundred short runs feeds all tests

LR, STEPS = 1e-3, 4
SEEDS = (1, 2)
COMMON = {
    "precision": "fp32",
    "data": {"split": "dev", "max_length": 32},
    "model.attention": "eager",  # XLNet has no other
    "optimizer": {"lr": LR, "clip_norm": 0.1},  # below every gradient, so that clipping shows
    "schedule": {"length": {"steps": STEPS}, "batch_size": 4, "warmup": 0.0},
    "evaluation": {"every": {"times": 1}, "report": "last"},
}
WITH_POOLER = ("bert", "albert")
WITH_BLOCKS = tuple(family for family in OWN_FAMILIES if family != "albert")  # of which each has weights of its own
START = {"recipe": "zhang", "set": COMMON | {"optimizer.lr": 1e-2, "optimizer": {"clip_norm": 1.0}}, "seed": 5}
METHODS: dict[str, tuple[dict, Iterable[str]]] = {  # arm -> its settings, the families it is for
    "plain": ({}, OWN_FAMILIES),
    "uncorrected": ({"optimizer.bias_correction": False}, OWN_FAMILIES),
    "blocks": ({"reinit.blocks": 2}, WITH_BLOCKS),
    "pooler": ({"reinit.pooler": True}, WITH_POOLER),
    "embeddings": ({"reinit.embeddings": True}, ("bert", "roberta", "xlnet", "electra")),
    "mixout": ({"mixout.p": 0.9}, OWN_FAMILIES),
    "mixout-column": ({"mixout.p": 0.9, "mixout.granularity": "column"}, OWN_FAMILIES),
    "mixout-after": ({"mixout.p": 1.0, "mixout.scope": "after_dropout"}, OWN_FAMILIES),
    "mixout-all": ({"mixout.p": 1.0}, OWN_FAMILIES),
    "mixout-reinit": ({"mixout.p": 1.0, "reinit.blocks": 1}, WITH_BLOCKS),
    "llrd": ({"optimizer.llrd": 0.5}, WITH_BLOCKS),
    "decay": ({"optimizer.weight_decay": 20.0}, OWN_FAMILIES),
    "towards": ({"optimizer.weight_decay": 500.0, "optimizer.decay_towards": "pretrained"}, OWN_FAMILIES),
    "towards-head": (
        {"optimizer.weight_decay": 500.0, "optimizer.decay_towards": "pretrained", "optimizer.decay_head": True},
        OWN_FAMILIES,
    ),
    "started": ({"start_from": START}, OWN_FAMILIES),
    "warmed": ({"schedule.warmup": None, "schedule.warmup_steps": 2}, OWN_FAMILIES),
    "undropped": ({"model.dropout": 0.0}, OWN_FAMILIES),
    "beta2": ({"optimizer.betas": [0.9, 0.98]}, OWN_FAMILIES),
    "unclipped": ({"optimizer.clip_norm": None}, OWN_FAMILIES),
    "longer": ({"schedule.length": {"steps": 2 * STEPS}}, OWN_FAMILIES),
    "paper-head": ({"model.head": "paper"}, ("electra",)),
}
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Done:
    """The sweep, its results, and what its runs began and ended with."""

    plan: Sweep
    results: Path
    outcome: SweepResult
    runs: dict[tuple[str, str, int], PlannedRun]  # arm, family, seed

    def record(self, arm: str, family: str, seed: int = 1) -> RunRecord:
        record = read_record(self.results, self.runs[arm, family, seed].run_id)
        assert record
        return record

    def history(self, arm: str, family: str, seed: int = 1) -> list[dict]:
        folder = run_folder(self.results, self.runs[arm, family, seed].run_id)
        return [json.loads(line) for line in (folder / HISTORY_FILE).read_text().splitlines()]

    def end(self, arm: str, family: str, seed: int = 1) -> Weights:
        folder = run_folder(self.results, self.runs[arm, family, seed].run_id)
        return load_file(folder / LAST_FOLDER / "model.safetensors")

    def model(self, arm: str, family: str, seed: int = 1):
        """Returns the model with the weights that a run begins with."""
        config = self.runs[arm, family, seed].config
        return build_model(config, self.plan.sources, find_start_weights(config, self.results))[0]

    def start(self, arm: str, family: str, seed: int = 1) -> Weights:
        return {name: weights.detach() for name, weights in self.model(arm, family, seed).state_dict().items()}

    def moved(self, arm: str, family: str, start: Weights | None = None) -> Weights:
        """Returns how far each weight is from where it began, or from another start."""
        start = start or self.start(arm, family)
        return {name: (weights - start[name]).abs() for name, weights in self.end(arm, family).items()}


@pytest.fixture(scope="module")
def done(tmp_path_factory, toy_data, tiny_family) -> Done:
    place = tmp_path_factory.mktemp("methods")
    folders = {family: tiny_family(family) for family in OWN_FAMILIES}
    task = {f: str(toy_data / f"{f}.csv") for f in ("train", "validation", "test")}
    task |= {
        "name": "toy",
        "text": ["first", "second"],
        "label": "label",
        "labels": ["no", "yes"],
        "metric": "accuracy",
    }
    arms = []
    for family in OWN_FAMILIES:  # one after the other, since a worker keeps one checkpoint
        for name, (settings, families) in METHODS.items():
            if "start_from" in settings:
                settings = {"start_from": settings["start_from"] | {"task": task}}
            if family in families:
                arms.append({"name": f"{family} {name}", "set": settings, "model": str(folders[family])})
    content = {"task": task, "recipe": "zhang", "seeds": "1-2", "set": COMMON, "arms": arms}
    (place / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    plan = load_sweep(place / "sweep.yaml", LocalPaths(cache_dir=place / "cache"))
    result = run_sweep(plan, results=place / "results", devices="cpu", save="last", threads=1)
    runs = {(*planned.arm.split()[::-1], planned.config.seeds.init): planned for planned in plan.runs}
    return Done(plan, place / "results", result, runs)


def cases(*arms: str) -> Callable:
    """Marks a test to be done for every family that has these arms."""
    families = [family for family in OWN_FAMILIES if all(family in METHODS[arm][1] for arm in arms)]
    return pytest.mark.parametrize("family", families)


def linears(model: nn.Module) -> list[str]:
    return [f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Linear)]


def is_head(model, name: str) -> bool:
    return any(name.startswith(f"{head}.") for head in find_head_modules(model))


def block_paths(model, family: str) -> list[str]:
    """Returns the names of the blocks, the lowest first."""
    return [f"{path}.{i}." for path in BACKBONES[family].blocks for i in range(len(list(model.get_submodule(path))))]


def share_still(distances: Tensor) -> float:
    return float((distances == 0).float().mean())


def mean_of(weights: Weights, names: Iterable[str]) -> float:
    return float(torch.cat([weights[name].flatten() for name in names]).mean())


def rates(done: Done, arm: str, family: str) -> list[float]:
    return [line["lr"] / LR for line in done.history(arm, family)]


def losses(done: Done, arm: str, family: str, seed: int = 1) -> list[float]:
    return [line["loss"] for line in done.history(arm, family, seed)]


def test_every_run_of_the_sweep_is_finished(done):
    assert done.outcome.crashed == done.outcome.unfinished == ()
    assert len(done.runs) == sum(len(list(families)) for _, families in METHODS.values()) * len(SEEDS)
    assert len({planned.run_id for planned in done.runs.values()}) == len(done.runs)
    for (arm, family, seed), planned in done.runs.items():
        record = done.record(arm, family, seed)
        assert (record.status, record.reason) == ("finished", None), planned.arm
        assert record.steps == (2 if arm == "longer" else 1) * STEPS, planned.arm
        assert all(math.isfinite(loss) for loss in losses(done, arm, family, seed)), planned.arm


@cases("plain")
def test_plain_fine_tuning_moves_every_linear_and_the_seeds_differ(done, family):
    moved = done.moved("plain", family)
    for name in linears(done.model("plain", family)):
        assert share_still(moved[name]) < 0.01, name
    assert losses(done, "plain", family, 1) != losses(done, "plain", family, 2)


@cases("uncorrected")
def test_without_bias_correction_the_first_steps_are_too_long(done, family):
    """Adam's ratio is 3.2 at the first step and 5.0 at the fourth."""
    names = linears(done.model("plain", family))
    ratio = mean_of(done.moved("uncorrected", family), names) / mean_of(done.moved("plain", family), names)
    assert 3 < ratio < 5.5


@cases("blocks")
def test_redrawn_blocks_begin_elsewhere_and_all_else_where_the_baseline_does(done, family):
    model = done.model("blocks", family)
    top = tuple(block_paths(model, family)[-2:])
    plain, redrawn = done.start("plain", family), done.start("blocks", family)
    for name in plain:
        assert torch.equal(plain[name], redrawn[name]) or name.startswith(top), name  # the head among them
    matrices = [name for name in linears(model) if name.startswith(top)]
    assert all(not torch.equal(plain[name], redrawn[name]) for name in matrices)
    ours, theirs = done.moved("blocks", family), done.moved("blocks", family, plain)
    assert mean_of(ours, matrices) < 4 * LR  # it is from the draw that the run went on
    assert mean_of(theirs, matrices) > 10 * LR
    assert mean_of(done.moved("blocks", family), [n for n in linears(model) if is_head(model, n)]) < 4 * LR


@cases("pooler")
def test_the_pooler_alone_is_redrawn(done, family):
    plain, redrawn = done.start("plain", family), done.start("pooler", family)
    changed = {name for name in plain if not torch.equal(plain[name], redrawn[name])}
    assert changed == {name for name in plain if name.startswith(f"{BACKBONES[family].pooler}.")} != set()
    assert mean_of(done.moved("pooler", family), changed) < 4 * LR
    assert mean_of(done.moved("pooler", family, plain), changed) > 5 * LR


@cases("embeddings")
def test_the_embeddings_alone_are_redrawn(done, family):
    plain, redrawn = done.start("plain", family), done.start("embeddings", family)
    parts = tuple(f"{name}." for name in BACKBONES[family].embeddings)
    changed = {name for name in plain if not torch.equal(plain[name], redrawn[name])}
    assert changed == {name for name in plain if name.startswith(parts) and plain[name].is_floating_point()}
    words = [name for name in changed if "word_embedding" in name]
    assert mean_of(done.moved("embeddings", family), words) < 4 * LR
    assert mean_of(done.moved("embeddings", family, plain), words) > 10 * LR


@cases("mixout")
def test_mixout_leaves_most_weights_alone_each_by_itself_or_by_columns(done, family):
    """A weight that the target stood in for in every step has had no gradient: .9 ** 4 of all."""
    single, column = done.moved("mixout", family), done.moved("mixout-column", family)
    names = linears(done.model("plain", family))
    big = [name for name in names if single[name].numel() >= 256]
    assert all(0.5 < share_still(single[name]) < 0.8 for name in big)
    together = torch.cat([single[name].flatten() for name in big])
    assert share_still(together) == pytest.approx(0.9**STEPS, abs=0.03)
    still = [share_still(column[name][:, i]) for name in big for i in range(column[name].shape[1])]
    assert np.mean([share == 1 for share in still]) == pytest.approx(0.9**STEPS, abs=0.1)
    assert np.mean([0.05 < share < 0.95 for share in still]) < 0.02
    assert all((single[name] != 0).any() for name in single if "orm.weight" in name)


@cases("mixout-all")
def test_mixout_with_p_1_is_the_target_and_only_the_rest_learns(done, family):
    model, moved = done.model("plain", family), done.moved("mixout-all", family)
    assert all(not moved[name].any() for name in linears(model))
    others = [name for name in moved if name not in linears(model) and "mask_emb" not in name]
    assert all(moved[name].any() for name in others if "norm" in name.lower() or name.endswith("bias"))


@cases("mixout-after")
def test_mixout_after_dropout_leaves_out_what_no_dropout_stands_before(done, family):
    model, moved = done.model("plain", family), done.moved("mixout-after", family)
    outside = [
        name for name in linears(model) if re.search(BACKBONES[family].not_after_dropout, name.removesuffix(".weight"))
    ]
    assert (outside != []) == (family not in ("xlnet", "bart"))
    assert all(moved[name].any() == (name in outside) for name in linears(model))


@cases("mixout-reinit")
def test_mixout_of_a_redrawn_block_has_the_draw_for_its_target(done, family):
    model, moved = done.model("mixout-reinit", family), done.moved("mixout-reinit", family)
    assert all(not moved[name].any() for name in linears(model))
    assert any(not torch.equal(done.start("plain", family)[name], done.end("mixout-reinit", family)[name])
               for name in linears(model))  # fmt: skip


@cases("llrd")
def test_layer_wise_rates_fall_block_by_block(done, family):
    model = done.model("plain", family)
    with_decay, plain = done.moved("llrd", family), done.moved("plain", family)
    paths = block_paths(model, family)
    assert len(paths) == (6 if family == "bart" else 3)
    for i, path in enumerate(paths):
        names = [name for name in linears(model) if name.startswith(path)]
        ratio = mean_of(with_decay, names) / mean_of(plain, names)
        assert ratio == pytest.approx(0.5 ** (len(paths) - i), rel=0.25), path
    head = [name for name in linears(model) if is_head(model, name)]
    assert mean_of(with_decay, head) / mean_of(plain, head) == pytest.approx(1, rel=0.25)
    embeddings = model.get_input_embeddings().weight
    name = next(name for name, weights in model.named_parameters() if weights is embeddings)
    ratio = mean_of(with_decay, [name]) / mean_of(plain, [name])
    assert ratio == pytest.approx(0.5 ** (len(paths) + 1), rel=0.25)


@cases("decay")
def test_weight_decay_makes_weights_smaller_but_for_biases_and_norms(done, family):
    start, plain, decayed = done.start("plain", family), done.end("plain", family), done.end("decay", family)
    shrunk = math.prod(1 - LR * 20.0 * (STEPS - step) / STEPS for step in range(STEPS))
    names = [name for name in linears(done.model("plain", family)) if start[name].abs().mean() > 10 * LR]
    assert names
    for name in names:
        assert decayed[name].norm() / plain[name].norm() == pytest.approx(shrunk, rel=0.02), name
    norms = [name for name in start if "LayerNorm.weight" in name]
    assert (norms != []) == (family not in ("xlnet", "bart"))  # whose names no_decay does not know
    for name in norms:
        assert decayed[name].norm() / plain[name].norm() == pytest.approx(1, abs=0.005), name


@cases("towards")
def test_pretrained_decay_keeps_weights_near_their_start_and_the_head_if_told(done, family):
    model, plain = done.model("plain", family), done.moved("plain", family)
    without, including = done.moved("towards", family), done.moved("towards-head", family)
    for name in linears(model):
        near = [moved[name].mean() / plain[name].mean() for moved in (without, including)]
        assert near[1] < 0.75, name
        assert near[0] > 0.9 if is_head(model, name) else near[0] < 0.75, name


@cases("started")
def test_a_run_starts_from_the_weights_of_the_intermediate_run(done, family):
    run_id = done.runs["started", family, 1].config.start_from.run
    assert done.runs["started", family, 2].config.start_from.run == run_id  # trained once for all seeds
    parent = load_file(run_folder(done.results, run_id) / LAST_FOLDER / "model.safetensors")
    begun, plain = done.start("started", family), done.start("plain", family)
    assert all(torch.equal(begun[name], weights) for name, weights in parent.items())
    names = linears(done.model("plain", family))
    assert mean_of(done.moved("started", family), names) < 4 * LR
    assert mean_of(done.moved("started", family, plain), names) > 10 * LR
    record = read_record(done.results, run_id)
    assert record
    assert record.config.model == done.runs["plain", family, 1].config.model


@cases("warmed", "longer")
def test_rates_rise_over_warm_up_steps_and_fall_slower_in_longer_training(done, family):
    assert rates(done, "plain", family) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates(done, "warmed", family) == pytest.approx([0, 0.5, 1, 0.5])
    assert rates(done, "longer", family) == pytest.approx([1 - i / 8 for i in range(8)])
    names = linears(done.model("plain", family))
    assert mean_of(done.moved("longer", family), names) > 1.2 * mean_of(done.moved("plain", family), names)


@cases("undropped")
def test_without_dropout_training_computes_what_evaluation_does(done, family):
    same = {}
    for arm in ("plain", "undropped"):
        job, state = prepare_run(done.runs[arm, family, 1], done.results, done.plan.sources, Execution())
        batch = collate(job.splits.train, batch_indices(job, 0), job.inputs, job.config.data)
        labels = batch.pop("labels")
        with torch.no_grad():
            loss = nn.functional.cross_entropy(state.model.eval()(**batch).logits, labels).item()
        same[arm] = losses(done, arm, family)[0] == pytest.approx(loss, rel=1e-5)
    assert same == {"plain": False, "undropped": True}


@cases("beta2")
def test_another_beta2_shows_from_the_second_update_on(done, family):
    ours, plain = losses(done, "beta2", family), losses(done, "plain", family)
    assert ours[:2] == pytest.approx(plain[:2], rel=1e-5)  # bias correction makes the first update the same
    assert done.end("beta2", family).keys() == done.end("plain", family).keys()
    names = linears(done.model("plain", family))
    difference = {n: (done.end("beta2", family)[n] - done.end("plain", family)[n]).abs() for n in names}
    assert 0 < mean_of(difference, names) < LR


@cases("unclipped")
def test_without_clipping_gradients_keep_their_length(done, family):
    plain, ours = done.history("plain", family), done.history("unclipped", family)
    assert all(line["grad_norm"] > COMMON["optimizer"]["clip_norm"] for line in plain)
    assert ours[0]["grad_norm"] == plain[0]["grad_norm"]
    assert ours[0]["loss"] == plain[0]["loss"]
    assert [line["loss"] for line in ours] != [line["loss"] for line in plain]


@cases("paper-head")
def test_the_papers_head_is_one_linear_that_learns(done, family):
    moved, stock = done.moved("paper-head", family), done.end("plain", family)
    ours = {name for name in moved if name not in stock}
    assert {tuple(moved[name].shape) for name in ours} == {(2, 16), (2,)}
    assert all(moved[name].any() for name in ours)


def test_the_two_seeds_are_crossed_and_decide_about_different_things(toy_data, tiny_family, tmp_path):
    """Z App. B, Fig. 9: `init` the weights at the start, `data` the batches; all with dropout off."""
    task = {f: str(toy_data / f"{f}.csv") for f in ("train", "validation")}
    task |= {"name": "toy", "text": "first", "label": "label", "labels": ["no", "yes"], "metric": "accuracy"}
    seeds = {"init": "3-4", "data": "7-8", "crossed": True}
    settings = COMMON | {"model.dropout": 0.0, "evaluation.at_start": True, "reinit.blocks": 1}
    content = {"task": task, "recipe": "zhang", "model": str(tiny_family("bert")), "seeds": seeds, "set": settings}
    (tmp_path / "crossed.yaml").write_text(yaml.safe_dump(content))
    plan = load_sweep(tmp_path / "crossed.yaml", LocalPaths(cache_dir=tmp_path / "cache"))
    assert run_sweep(plan, results=tmp_path / "results", devices="cpu", threads=1).finished
    before: dict[int, set] = {}
    for planned in plan.runs:
        init, data = planned.config.seeds.init, planned.config.seeds.data
        record = read_record(tmp_path / "results", planned.run_id)
        assert record
        before.setdefault(init, set()).add(record.evals[0].val_loss)
        job, _ = prepare_run(planned, tmp_path / "results", plan.sources, Execution())
        rows = batch_row_indices(data, 0, len(job.splits.train), 4)
        batch = collate(job.splits.train, rows, job.inputs, job.config.data)
        same_init = next(other for other in plan.runs if other.config.seeds.init == init)
        model, _ = build_model(same_init.config, plan.sources)
        loss = nn.functional.cross_entropy(model.eval()(**batch).logits, batch.pop("labels")).item()
        lines = (run_folder(tmp_path / "results", planned.run_id) / HISTORY_FILE).read_text()
        assert json.loads(lines.splitlines()[0])["loss"] == pytest.approx(loss, rel=1e-5)
    assert [(p.config.seeds.init, p.config.seeds.data) for p in plan.runs] == [(3, 7), (3, 8), (4, 7), (4, 8)]
    assert {init: len(values) for init, values in before.items()} == {3: 1, 4: 1}
    assert before[3] != before[4]
    orders = {seed: batch_row_indices(seed, 0, 28, 28).tolist() for seed in (7, 8)}
    assert orders[7] != orders[8]
    again = train(plan.runs[0], tmp_path / "again", plan.sources, Execution(threads=1))  # in another process
    first = read_record(tmp_path / "results", again.run_id)
    assert first
    assert again.evals == first.evals
    histories = [run_folder(tmp_path / place, again.run_id) / HISTORY_FILE for place in ("results", "again")]
    assert histories[0].read_bytes() == histories[1].read_bytes()
