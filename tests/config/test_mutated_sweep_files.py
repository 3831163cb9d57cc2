"""Sweep files and --set options with slips of the pen, and worse: runs, or one sentence, and soon."""

import random
import time
from pathlib import Path

import pytest
from support.mutated_sweeps import mutate_sweep

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.errors import MAX_ECHO, UserError


@pytest.mark.faults
def test_any_text_is_a_sweep_or_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("a,b\nx,0\n")
    rng = random.Random(0)
    sweeps = 0
    for _ in range(200):
        text, sets = mutate_sweep(rng)
        Path("s.yaml").write_text(text, newline="")
        start = time.monotonic()
        sentence = "a sweep"
        try:
            load_sweep("s.yaml", LocalPaths(), sets)
        except UserError as error:
            sentence = str(error)
        assert sentence.isprintable()
        assert len(sentence) < 5 * MAX_ECHO
        assert time.monotonic() - start < 10
        sweeps += sentence == "a sweep"
    assert 5 < sweeps < 195  # else it would test nothing
