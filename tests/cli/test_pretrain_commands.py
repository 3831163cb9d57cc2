"""`stableft pretrain`: what is printed, the exit code, and that a mistake leaves nothing behind."""

import json
import os
import re
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.pretraining import pretraining_outputs, write_pretraining_config, write_wikipedia
from transformers import AutoModelForMaskedLM

from stableft.cli import pretrain_commands as pretrain_command
from stableft.cli.pretrain_commands import show_pretrain_progress
from stableft.config.planned_run import LocalPaths
from stableft.data import toy_language as toylang
from stableft.pretrain import run
from stableft.pretrain.config_file import load_pretraining
from stableft.pretrain.record import PretrainRecord
from stableft.pretrain.run import PretrainProgress
from stableft.records.run_record import CHECKPOINT_FILE, parse_record_as
from stableft.sweep.claims import claim_run

pytestmark = pytest.mark.usefixtures("workplace")
CPU = ("--device", "cpu", "--threads", "1")


def run_id(path: Path) -> str:
    return load_pretraining(path, LocalPaths()).config.run_id


def test_from_config_to_model(stableft, workplace):
    path = write_pretraining_config(workplace)
    code, out, err = stableft("pretrain", path, *CPU)
    folder = Path("results/pretrain") / run_id(path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "loading toylang ..."
    assert lines[1].startswith(f"{folder.name}: 270 training rows")
    assert "30 held-out rows" in lines[1]
    assert lines[-5].startswith("step 12/12  loss ")
    assert lines[-4].startswith("held-out loss ")
    assert " tokens in 12 steps, 0:00:0" in lines[-3]
    assert lines[-3].endswith(" tokens/s")
    assert lines[-2] == f"model: {folder / 'model'}"
    assert lines[-1].startswith("stableft train mosbach --task toy-rte --seed 1 --set data.max_length=32 --model ")
    AutoModelForMaskedLM.from_pretrained(folder / "model")
    record = (folder / "record.json").read_bytes()
    code, out, _ = stableft("pretrain", path, *CPU)
    assert code == 0
    assert "tiny is already pre-trained" in out
    assert out.splitlines()[1:] == lines[-4:]
    assert (folder / "record.json").read_bytes() == record


def test_out_takes_model_and_record(stableft, workplace):
    path = write_pretraining_config(workplace)
    code, out, _ = stableft("pretrain", path, *CPU, "--out", "toy-bert")
    assert code == 0
    assert "model: toy-bert\n" in out
    first = {file.name: file.read_bytes() for file in Path("toy-bert").iterdir()}
    record = parse_record_as(PretrainRecord, Path("toy-bert.record.json").read_text())
    assert record.run_id == run_id(path)
    assert stableft("pretrain", path, *CPU, "--out", "toy-bert", "--set", "seeds.init=1")[0] == 0
    second = {file.name: file.read_bytes() for file in Path("toy-bert").iterdir()}
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == ["model.safetensors"]


@pytest.mark.faults
def test_ctrl_c_leaves_a_checkpoint_and_the_same_command_goes_on(stableft, workplace, monkeypatch):
    path = write_pretraining_config(workplace)
    assert stableft("pretrain", path, *CPU, "--results", "whole")[0] == 0
    seen = []

    @contextmanager
    def view():
        def show(at: PretrainProgress) -> None:
            seen.append(at.step)
            if at.step == 5:
                os.kill(os.getpid(), signal.SIGINT)

        yield show

    with monkeypatch.context() as patch:
        patch.setattr(pretrain_command, "show_pretrain_progress", view)
        code, out, _ = stableft("pretrain", path, *CPU)
    assert code == 130
    assert "step 5 of 12" in out.splitlines()[-1]
    assert max(seen) == 5
    plan = load_pretraining(path, LocalPaths())
    assert (Path("results/pretrain") / plan.config.run_id / CHECKPOINT_FILE).exists()
    code, _, err = stableft("pretrain", path, "--device", "cpu", "--threads", "1", "--micro-batch", "4")
    assert code == 2
    assert re.search("micro_batch None.* 4", err)
    assert stableft("pretrain", path, *CPU)[0] == 0
    assert pretraining_outputs(Path("results"), plan) == pretraining_outputs(Path("whole"), plan)


def test_a_loss_that_is_no_number_gives_exit_code_1(stableft, workplace):
    path = write_pretraining_config(workplace, **{"optimizer.lr": 1e30, "optimizer.clip_norm": None})
    code, out, _ = stableft("pretrain", path, *CPU)
    assert code == 1
    assert re.search("failed: .*training loss", out)
    assert stableft("pretrain", path, *CPU)[0] == 1


def test_two_processes_do_not_work_on_one(stableft, workplace):
    path = write_pretraining_config(workplace)
    with claim_run(Path("results/pretrain") / run_id(path)):
        code, _, err = stableft("pretrain", path, *CPU)
    assert code == 2
    assert re.match(f"stableft: another process .*{run_id(path)} in results", err)


def test_a_finished_one_is_looked_at_before_it_is_believed(stableft, workplace, monkeypatch):
    path = write_pretraining_config(workplace)
    assert stableft("pretrain", path, *CPU)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(
            toylang, "make_toy_corpus", lambda seed, pairs: [("this", ".")] * 2 + [("that", ".")] * (pairs - 2)
        )
        code, _, err = stableft("pretrain", path, *CPU)
    assert code == 2
    assert re.search("data .*fingerprint", err)
    model = Path("results/pretrain") / run_id(path) / "model"
    model.rename("elsewhere")
    code, _, err = stableft("pretrain", path, *CPU)
    assert code == 2
    assert re.search("record .*model folder .*missing.*delete", err)


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["tiny.yaml", "--set", "text=empty"], "--set: text: folder 'empty' .*no files"),
        (["tiny.yaml", "--set", "text=bytes"], r"bytes/x .*not UTF-8 text \(byte 0\)"),
        (["tiny.yaml", "--set", "text=void"], "text 'void': .* 0 documents"),
        (["tiny.yaml", "--set", "text=wiki", "--set", "vocabulary=vocab.txt"], r"vocabulary 'vocab\.txt' .*no \[UNK\]"),
        (["tiny.yaml", "--set", "model.vocab_size=9"], r"--set: model\.vocab_size: 9 .*less"),
        (["tiny.yaml", "--set", "model.hidden_sizes=9"], r"did you mean 'model\.hidden_size'"),
        (
            ["tiny.yaml", "--set", "model.num_hidden_layers=0"],
            "num_hidden_layers: 0 .*whole number .*least 1",
        ),
        (["tiny.yaml", "--set", "model.num_attention_heads=-2"], r"--set: model\.num_attention_heads: -2"),
        (["tiny.yaml", "--set", "model.layer_norm_eps=.nan"], r"model\.layer_norm_eps:1: \.nan is ambiguous"),
        (["tiny.yaml", "--set", "model.hidden_dropout_prob=2"], r"model\.hidden_dropout_prob: 2 .*number .* 0"),
        (["tiny.yaml", "--set", "model.hidden_dropout_prob=.inf"], r"hidden_dropout_prob:1: \.inf is ambiguous"),
        (["tiny.yaml", "--set", "model.hidden_dropout_prob=few"], r"--set: model\.hidden_dropout_prob: "),
        (["tiny.yaml", "--set", "vocabulary=special.txt"], r"'special\.txt' .*special tokens"),
        (["tiny.yaml", "--set", "model.num_attention_heads=3"], "not .*multiple .*number .*attention heads"),
        (["tiny.yaml", "--set", "max_length=512"], "--set: max_length: 512 .*more .* 32 positions"),
        (["tiny.yaml", "--set", "optimizer.lr"], r"--set optimizer\.lr: .*KEY=VALUE"),
        (["tiny.yaml", "--set", "family=bart2"], "--set: family: model 'tiny' .*family 'bart2'"),
        (["nowhere.yaml"], r"nowhere\.yaml: .*no such pre-training config"),
        (["rte"], "sweep file: `stableft sweep"),
        (["tiny.yaml", "--device", "tpu"], "--device 'tpu' .*auto, cpu.*GPU .*cuda:0"),
        (["tiny.yaml", "--device", "cuda:99"], "--device 'cuda:99': torch .*no such GPU .*machine"),
        (["tiny.yaml", "--out", "wiki"], "--out wiki exists .*not .*model.*not overwritten"),
        (["tiny.yaml", "--out", "project"], "--out project exists .*not .*model.*not overwritten"),
        (["tiny.yaml", "--out", "results"], "--out results contains the results folder results, so"),
        (["tiny.yaml", "--out", "a", "--results", "a/b"], "--out a contains the results folder a/b, so"),
        (["tiny.yaml", "--out", "."], r"--out \.: .*name .*folder"),
        (["tiny.yaml", "--out", "nope/model"], "--out nope/model: .*no folder nope"),
        (["tiny.yaml", "--results", "tiny.yaml"], r"tiny\.yaml .*file, not .*folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(stableft, workplace, arguments, facts):
    write_pretraining_config(workplace)
    write_wikipedia(workplace / "wiki")
    for name in ("empty", "bytes", "void", "project"):
        (workplace / name).mkdir()
    (workplace / "bytes/x").write_bytes(b"\xff")
    (workplace / "void/x").write_bytes(b"\n")
    (workplace / "project/config.json").write_bytes(b"{}")
    (workplace / "vocab.txt").write_text("[PAD]\nthe\n")
    (workplace / "special.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    before = sorted(workplace.rglob("*"))
    code, _, err = stableft("pretrain", *arguments)
    assert code == 2
    assert re.search(facts, err)
    assert err.startswith("stableft: ")
    assert err.count("\n") == 1
    assert sorted(workplace.rglob("*")) == before


def test_the_command_for_fine_tuning_has_the_rows_that_were_trained_on(stableft, workplace):
    path = write_pretraining_config(workplace, max_length=16)
    out = stableft("pretrain", path, *CPU, "--results", "with a space")[1]
    assert " data.max_length=16 --model 'with a space/pretrain/" in out


def test_a_checkpoint_beside_a_record_is_removed(stableft, workplace):
    """A kill between the two leaves it there."""
    path = write_pretraining_config(workplace)
    assert stableft("pretrain", path, *CPU)[0] == 0
    checkpoint = Path("results/pretrain") / run_id(path) / CHECKPOINT_FILE
    checkpoint.write_bytes(b"")
    assert stableft("pretrain", path, *CPU)[0] == 0
    assert not checkpoint.exists()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_everybody_whom_the_umask_lets_may_read_the_model(stableft, workplace, umask, mode):
    path = write_pretraining_config(workplace)
    before = os.umask(umask)
    try:
        assert stableft("pretrain", path, *CPU)[0] == 0
        os.umask(0o022)  # of the one who copies
        assert stableft("pretrain", path, *CPU, "--out", "mine")[0] == 0
    finally:
        os.umask(before)
    files = list((Path("results/pretrain") / run_id(path) / "model").iterdir())
    assert {file.name: file.stat().st_mode & 0o777 for file in files} == {file.name: mode for file in files}
    assert {file.stat().st_mode & 0o777 for file in Path("mine").iterdir()} == {0o644}
    assert sorted(file.name for file in Path("mine").iterdir()) == sorted(file.name for file in files)


def test_out_may_be_a_link_to_an_older_model(stableft, workplace):
    path = write_pretraining_config(workplace)
    assert stableft("pretrain", path, *CPU, "--out", "old")[0] == 0
    Path("mine").symlink_to("old")
    assert stableft("pretrain", path, *CPU, "--set", "seeds.init=1", "--out", "mine")[0] == 0
    assert Path("mine").is_symlink()
    made = Path("results/pretrain") / parse_record_as(PretrainRecord, Path("mine.record.json").read_text()).run_id
    assert Path("old/model.safetensors").read_bytes() == (made / "model/model.safetensors").read_bytes()


def test_what_came_to_lie_at_out_in_the_meantime_is_not_replaced(stableft, workplace, monkeypatch):
    def pretrain(*args):
        Path("mine").mkdir()
        Path("mine/work").write_text("of days")
        return original(*args)

    path, original = write_pretraining_config(workplace), run.pretrain_masked_lm
    monkeypatch.setattr(pretrain_command, "pretrain_masked_lm", pretrain)
    code, _, err = stableft("pretrain", path, *CPU, "--out", "mine")
    assert code == 2
    assert re.fullmatch("stableft: --out mine .*not overwritten\n", err)
    assert Path("mine/work").read_text() == "of days"
    assert stableft("pretrain", path, *CPU, "--out", "other")[0] == 0


@pytest.mark.faults
def test_a_copy_that_cannot_be_made_leaves_nothing_behind(stableft, workplace, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "mine")

    path = write_pretraining_config(workplace)
    monkeypatch.setattr(pretrain_command.shutil, "copyfile", full)
    code, _, err = stableft("pretrain", path, *CPU, "--out", "mine")
    assert (code, err) == (2, "stableft: cannot use mine: No space left on device\n")
    assert {file.name for file in workplace.iterdir()} == {"tiny.yaml", "results"}


@pytest.mark.faults
def test_a_damaged_record_is_named(stableft, workplace):
    path = write_pretraining_config(workplace)
    assert stableft("pretrain", path, *CPU)[0] == 0
    record = Path("results/pretrain") / run_id(path) / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"tokens": 1}))
    code, _, err = stableft("pretrain", path, *CPU)
    assert code == 2
    assert re.search(r"record\.json .*not match .*checksum", err)


@pytest.mark.faults
def test_a_damaged_model_is_named_and_not_copied(stableft, workplace):
    path = write_pretraining_config(workplace)
    assert stableft("pretrain", path, *CPU)[0] == 0
    folder = Path("results/pretrain") / run_id(path)
    weights = folder / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    code, _, err = stableft("pretrain", path, *CPU, "--out", "mine")
    assert code == 2
    assert err == (
        f"stableft: {folder / 'model'} does not match its checksum in the run's record: it is damaged; delete "
        f"{folder} to train again\n"
    )
    assert not Path("mine").exists()


def test_lines_and_the_live_line(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for live in (False, True):
        with show_pretrain_progress(live) as show:
            for step in range(1, 41):
                now[0] += 2.0
                show(PretrainProgress(step, 40, 2.0 / step, None if step < 20 else 0.5, 1234.5))
        out = capsys.readouterr().out
        if not live:
            assert out.splitlines()[:2] == [
                "step 1/40  loss 2.0000  1,234 tokens/s  ETA ?",
                "step 16/40  loss 0.1250  1,234 tokens/s  ETA 0:00:48",
            ]
            assert "step 20/40  loss 0.1000  held-out 0.5000  1,234 tokens/s  ETA 0:00:40" in out
        else:
            assert "step 40/40  loss 0.0500  held-out 0.5000" in out
