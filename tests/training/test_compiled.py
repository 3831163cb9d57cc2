"""Compiled runs: the numbers of plain ones up to rounding, told by records, and refused without a compiler."""

import shutil

import numpy as np
import pytest
import torch
from support.training_runs import read_history, train_run
from torch._dynamo.utils import counters

from stableft.config.planned_run import Execution, RunInterrupted
from stableft.data.tokens import collate
from stableft.errors import UserError
from stableft.records.run_record import dump_record
from stableft.report.runs import describe_environment
from stableft.training.checkpoint import COMMAND_CONDITIONS
from stableft.training.loop import resume_conditions
from stableft.training.setup import prepare_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about its own parts


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("execution", ["padded", "packed"])
def test_without_dropout_losses_agree_after_50_steps(toy_run, toy_sources, tmp_path, execution):
    still = {"model.dropout": 0.0, "schedule.length": {"steps": 50}, "execution": execution}
    run = toy_run(**still, **{"evaluation.every": {"times": 2}})
    plain = train_run(run, tmp_path / "plain", toy_sources)
    with pytest.raises(RunInterrupted):
        train_run(run, tmp_path / "compiled", toy_sources, stop_at=20, compile=True)
    compiled = train_run(run, tmp_path / "compiled", toy_sources, compile=True)
    losses = [[entry["loss"] for entry in read_history(tmp_path / name, run)] for name in ("plain", "compiled")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert compiled.run_id == plain.run_id
    assert plain.environment
    assert compiled.environment
    assert (plain.environment.arithmetic, compiled.environment.arithmetic) == ("cpu", "cpu, compiled")
    assert describe_environment(compiled.environment.model_dump()).startswith("cpu, compiled, ")
    assert "compiled" not in dump_record(plain)  # as in older records


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("execution", ["padded", "packed"])
def test_ten_seeds_of_one_process_run_the_same_compiled_code(toy_run, toy_sources, tmp_path, monkeypatch, execution):
    """Were each seed compiled again, those beyond torch's limit for one function would run uncompiled."""
    monkeypatch.setattr("stableft.data.tokens.BLOCK_COST", 1)  # uncompiled, packed rows are in blocks
    torch._dynamo.reset()
    compiled = []
    for seed in range(10):
        counters.clear()
        run = toy_run(**{"execution": execution, "seeds": {"data": seed, "init": seed}})
        train_run(run, tmp_path, toy_sources, compile=True)
        compiled.append(counters["frames"]["total"])
    assert compiled[0] > 0
    assert compiled[1:] == [0] * 9


def test_a_run_resumes_only_as_it_was_compiled():
    plain, compiled = (resume_conditions("a", "b", Execution(compile=c), torch.device("cpu")) for c in (False, True))
    assert (plain["compile"], compiled["compile"]) == (None, True)  # None: as in older checkpoints
    assert "compile" in COMMAND_CONDITIONS


@pytest.mark.parametrize("compiled", [False, True])
def test_packed_rows_are_in_blocks_unless_they_are_compiled(toy_run, toy_sources, tmp_path, monkeypatch, compiled):
    monkeypatch.setattr("stableft.data.tokens.BLOCK_COST", 1)
    monkeypatch.setattr("stableft.training.setup.compile_model", lambda model: None)  # it takes minutes
    run = toy_run(execution="packed")
    job, _ = prepare_run(run, tmp_path, toy_sources, Execution(threads=1, compile=compiled))
    batch = collate(job.splits.train, np.arange(8), job.inputs, job.config.data)
    assert ("blocks" in batch) is not compiled


@pytest.mark.slow
def test_without_a_compiler_the_sweep_ends_with_a_sentence(toy_run, toy_sources, tmp_path, monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(UserError, match=r"^--compile: torch finds no C\+\+ compiler, .* leave the option out$"):
        prepare_run(toy_run(), tmp_path, toy_sources, Execution(threads=1, compile=True))
