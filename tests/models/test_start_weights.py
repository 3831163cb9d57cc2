"""A run that starts from another one has its weights at step 0, and its own head where the labels differ."""

import random

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_families import OWN_FAMILIES
from support.training_runs import run_outputs, train_run

from stableft.config.planned_run import Execution, RunInterrupted
from stableft.config.run_config import Mixout, StartFrom
from stableft.errors import UserError
from stableft.models.start_weights import find_start_weights
from stableft.records.file_sums import sum_files
from stableft.records.run_record import read_record, run_folder, write_record
from stableft.training.run import train
from stableft.training.setup import prepare_run

EXECUTION = Execution(threads=1)


def from_(parent, checkpoint="last") -> StartFrom:
    return StartFrom(run=parent.run_id, checkpoint=checkpoint)


def begin(run, results, sources) -> dict[str, torch.Tensor]:
    """Returns the weights of a run before its first step."""
    _, state = prepare_run(run, results, sources, EXECUTION)
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


def kept(results, parent, name="model-last") -> dict[str, torch.Tensor]:
    return load_file(run_folder(results, parent.run_id) / name / "model.safetensors")


@pytest.fixture
def parent(toy_run, toy_sources, tmp_path):
    """Returns a finished run whose last and best weights were kept, and differ."""
    run = toy_run(seeds={"init": 9, "data": 9})
    train_run(run, tmp_path, toy_sources, save="all")
    return run


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_equal_labels_keep_the_head(toy_run, toy_sources, tmp_path, parent, checkpoint):
    theirs = kept(tmp_path, parent, f"model-{checkpoint}")
    ours = begin(toy_run(start_from=from_(parent, checkpoint)), tmp_path, toy_sources)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    other = kept(tmp_path, parent, "model-best" if checkpoint == "last" else "model-last")
    assert not all(torch.equal(theirs[name], other[name]) for name in theirs)


@pytest.mark.parametrize("labels", [("yes", "no"), ("no", "yes", "maybe")])
def test_other_labels_have_a_new_head(toy_run, toy_sources, tmp_path, parent, labels):
    plain = toy_run()
    own = plain.config.data.own.model_copy(update={"labels": labels, "metrics": ("accuracy",)})
    child, plain = (toy_run(**{"data.own": own, "start_from": start}) for start in (from_(parent), None))
    theirs, ours = kept(tmp_path, parent), begin(child, tmp_path, toy_sources)
    drawn = begin(plain, tmp_path, toy_sources)
    for name, tensor in ours.items():
        assert torch.equal(tensor, (drawn if name.startswith("classifier.") else theirs)[name])
    assert not torch.equal(ours["classifier.weight"], theirs["classifier.weight"]) if len(labels) == 2 else True


def test_from_classes_to_a_number_and_between_numbers(toy_run, toy_sources, tmp_path, parent):
    child = toy_run(regression=True, start_from=from_(parent))
    drawn = begin(toy_run(regression=True), tmp_path, toy_sources)
    assert torch.equal(begin(child, tmp_path, toy_sources)["classifier.weight"], drawn["classifier.weight"])
    number = toy_run(regression=True, seeds={"init": 4, "data": 4})
    train_run(number, tmp_path, toy_sources, save="last")
    ours = begin(toy_run(regression=True, start_from=from_(number)), tmp_path, toy_sources)
    assert torch.equal(ours["classifier.weight"], kept(tmp_path, number)["classifier.weight"])


def test_reinit_comes_after(toy_run, toy_sources, tmp_path, parent):
    drawn = {"reinit": {"pooler": True, "blocks": 1}}
    ours = begin(toy_run(start_from=from_(parent), **drawn), tmp_path, toy_sources)
    alone, theirs = begin(toy_run(**drawn), tmp_path, toy_sources), kept(tmp_path, parent)
    again = ("bert.pooler.dense.weight", "bert.encoder.layer.1.output.dense.weight")
    assert all(torch.equal(ours[name], alone[name]) for name in again)
    assert torch.equal(
        ours["bert.encoder.layer.0.output.dense.weight"], theirs["bert.encoder.layer.0.output.dense.weight"]
    )


def test_the_record_says_where_a_run_started(toy_run, toy_sources, tmp_path, parent):
    child = toy_run(start_from=from_(parent))
    record = train_run(child, tmp_path, toy_sources)
    assert record.start is not None
    assert (record.start.recipe, record.start.task, record.start.seeds.init) == ("recipe", "toy", 9)
    assert len(record.start.sha256) == 64
    assert child.run_id != toy_run().run_id
    assert train_run(toy_run(), tmp_path, toy_sources).start is None


def vouch_again(results, run) -> None:
    """Writes the record as if the run had ended with the files that are in its folder now."""
    record = read_record(results, run.run_id)
    assert record
    assert record.files
    files = sum_files(run_folder(results, run.run_id), record.files)
    write_record(results, record.model_copy(update={"files": files}))


@pytest.mark.faults
def test_damaged_weights_are_not_started_from(toy_run, tmp_path, parent):
    folder = run_folder(tmp_path, parent.run_id)
    weights = folder / "model-last" / "model.safetensors"
    content, draw = weights.read_bytes(), random.Random(0)
    for _ in range(5):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        weights.write_bytes(flipped)
        with pytest.raises(UserError) as caught:
            find_start_weights(toy_run(start_from=from_(parent)).config, tmp_path)
        assert str(caught.value) == (
            f"{folder / 'model-last'} does not match its checksum in the run's record: it is damaged; delete {folder} "
            "and train it again with --save last (automatic if the sweep trains it first)"
        )
    weights.write_bytes(content)
    assert find_start_weights(toy_run(start_from=from_(parent)).config, tmp_path)


def test_a_stopped_child_goes_on_only_from_the_same_weights(toy_run, toy_sources, tmp_path, parent):
    child = toy_run(start_from=from_(parent))
    expected = run_outputs(tmp_path, train_run(child, tmp_path, toy_sources))
    (run_folder(tmp_path, child.run_id) / "record.json").unlink()
    with pytest.raises(RunInterrupted):
        train_run(child, tmp_path, toy_sources, stop_at=5)
    weights = run_folder(tmp_path, parent.run_id) / "model-last" / "model.safetensors"
    before = weights.read_bytes()
    tensors = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights)
    vouch_again(tmp_path, parent)
    with pytest.raises(UserError, match=r"checkpoint .*step 5 .*with start"):
        train(child, tmp_path, toy_sources, EXECUTION)
    weights.write_bytes(before)
    vouch_again(tmp_path, parent)
    assert run_outputs(tmp_path, train_run(child, tmp_path, toy_sources)) == expected


def test_what_cannot_be_started_from(toy_run, toy_sources, tmp_path, parent):
    child = toy_run(start_from=from_(parent))
    with pytest.raises(UserError, match=f"run {parent.run_id} has not finished in"):
        find_start_weights(child.config, tmp_path / "elsewhere")
    other = child.config.model_copy(update={"model": child.config.model.model_copy(update={"sha256": "1" * 64})})
    with pytest.raises(UserError, match=r"model 'tiny'.*model 'tiny' cannot start"):
        find_start_weights(other, tmp_path)
    unkept = toy_run(seeds={"init": 5, "data": 5})
    train_run(unkept, tmp_path, toy_sources)
    with pytest.raises(UserError, match=r"finished.*best weights .*missing .*--save best"):
        find_start_weights(toy_run(start_from=from_(unkept, "best")).config, tmp_path)


def test_weights_that_do_not_fit(toy_run, toy_sources, tmp_path, parent):
    weights = run_folder(tmp_path, parent.run_id) / "model-last" / "model.safetensors"
    tensors = load_file(weights)
    name = "bert.encoder.layer.0.output.dense.weight"
    for changed, sentence in (
        ({key: value for key, value in tensors.items() if key != name}, f"has no {name}"),
        ({**tensors, "bert.more": torch.zeros(1)}, "has bert.more"),
        ({**tensors, name: torch.zeros(1)}, f"has {name} in another shape"),
    ):
        save_file(changed, weights)
        vouch_again(tmp_path, parent)
        with pytest.raises(UserError, match=sentence):
            begin(toy_run(start_from=from_(parent)), tmp_path, toy_sources)


def test_mixout_and_decay_go_towards_the_start(toy_run, toy_sources, tmp_path, parent):
    methods = {
        "mixout": Mixout(p=0.5, target="pretrained", granularity="parameter", scope="linear"),
        "optimizer.decay_towards": "pretrained",
        "optimizer.weight_decay": 0.01,
    }
    _, state = prepare_run(toy_run(start_from=from_(parent), **methods), tmp_path, toy_sources, EXECUTION)
    theirs, name = kept(tmp_path, parent), "bert.encoder.layer.0.output.dense"
    module = state.model.get_submodule(name)
    assert torch.equal(module.mixing.target, theirs[f"{name}.weight"])
    assert torch.equal(state.optimizer._targets[module.weight], theirs[f"{name}.weight"])


@pytest.mark.parametrize("family", OWN_FAMILIES)
def test_every_family_takes_over_its_encoder(family_run, tmp_path, family):
    parent, sources = family_run(family, seeds={"init": 9, "data": 9})
    train_run(parent, tmp_path, sources, save="last")
    child, _ = family_run(family, start_from=from_(parent))
    ours, theirs = begin(child, tmp_path, sources), kept(tmp_path, parent)
    assert theirs.keys() <= ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    shared = {ours[name].sum().item() for name in ours if "embed_tokens" in name or name.endswith("shared.weight")}
    assert len(shared) == (family == "bart")  # tied: in the file once, in the model under three names
