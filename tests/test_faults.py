"""The faults of machines and files that tests cause, by kind: `scripts/test -m "faults and not nightly"`.

========================================  =============================================================================
kind                                      tests
========================================  =============================================================================
kills of sweeps, bit for bit              here (forked, 15), sweep/test_kill.py (the command itself)
kills of pre-training and of probes       pretrain/test_pretrain_kill.py, probes/test_loss_surface.py
a worker that dies or hangs               sweep/test_workers.py, sweep/test_hung_workers.py, sweep/test_run_sweep.py
Ctrl-C, SIGTERM, SIGHUP                   here, cli/test_lost_output.py, sweep/test_workers.py,
                                          sweep/test_hung_workers.py
several sweeps on one folder              here, sweep/test_claims.py, sweep/test_workers.py, sweep/test_cluster.py
file systems without locks, other hosts   sweep/test_leases.py, sweep/test_claim_race.py
a full, read-only or vanished disk        here, training/test_run_on_bad_disk.py, sweep/test_sweep_on_bad_disk.py,
                                          cli/test_lost_output.py (every command's files), test_errors.py
output that nobody reads or that is lost  cli/test_lost_output.py
a read that fails for a moment            test_transient.py
too little memory                         training/test_micro_batches.py
a damaged checkpoint                      here, training/test_checkpoint.py
damaged files beside a record             here, records/test_file_sums.py
a damaged record                          here, records/test_run_record.py, cli/test_damaged_records.py
a damaged cache, or weights               here, data/test_tokens.py, models/test_load_and_build.py,
                                          models/test_start_weights.py, probes/test_partial_results.py
mutated sweep files and settings          here, config/test_mutated_sweep_files.py
damaged data and imports                  here, records/test_damaged_tables.py
========================================  =============================================================================

`scripts/faults` causes the same many times over, with counts in results/reliability; here it causes each a few times.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import fuzzed_inputs
from support.damaged_files import Tally
from support.forked_sweeps import Faults, outcome
from support.paths import ROOT
from support.training_runs import train_run

from stableft.records.run_record import HISTORY_FILE, RECORD_FILE, run_folder

pytestmark = pytest.mark.faults


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_few_faults_of_every_kind_lose_and_change_nothing(tmp_path):
    out = tmp_path / "reliability" / "faults.json"
    command = [sys.executable, ROOT / "scripts" / "faults.py", "--quick", "--out", out]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    counts = {kind: entry["counts"] for kind, entry in found.items()}
    assert counts["kill"]["kills"] == 15
    assert counts["kill"]["runs compared"] >= 4
    assert counts["signal"]["signals"] == 3
    assert counts["stop"]["workers that were found hung"] == counts["stop"]["stops"] == 1
    assert counts["together"]["runs compared"] == counts["full_disk"]["runs compared"] == 8
    assert counts["full_disk"]["writes that failed"] == 8
    assert counts["repair"]["files set aside"] == 4
    assert counts["damage"]["noticed"] == counts["damage"]["cases"] == 27
    fuzzed = [kind for kind in counts if kind.startswith("fuzz ")]
    assert len(fuzzed) == 7
    for kind in fuzzed:
        assert counts[kind]["read"] + counts[kind]["refused"] == counts[kind]["cases"] == 60
        assert min(counts[kind]["read"], counts[kind]["refused"]) > 0
    assert all(f"| {kind.replace('_', ' ')} | " in (out.parent / "README.md").read_text() for kind in found)


@pytest.mark.parametrize("tampered", ["nothing", "lost", "doubled", "altered", "damaged"])
def test_the_comparison_sees_what_it_looks_for(toy_run, toy_sources, tmp_path, tampered):
    runs = [toy_run(seeds={"init": seed, "data": seed}) for seed in (1, 2)]
    for run in runs:
        train_run(run, tmp_path, toy_sources)
    faults, tally = object.__new__(Faults), Tally()
    faults.expected = outcome(tmp_path)
    folder = run_folder(tmp_path, runs[0].run_id)
    match tampered:
        case "lost":
            (folder / RECORD_FILE).unlink()
        case "doubled":
            (folder.parent / "another").mkdir()
        case "altered":
            (folder / HISTORY_FILE).write_bytes((folder / HISTORY_FILE).read_bytes().replace(b"1", b"2", 1))
        case "damaged":
            (folder / RECORD_FILE).write_text("{")
    faults.compare(tmp_path, tally, "a case")
    wrong = "altered" if tampered == "damaged" else tampered
    assert {name: n for name, n in tally.counts.items() if n} == {
        "runs compared": 1 if wrong == "lost" else 2,
        **({} if wrong == "nothing" else {wrong: 1}),
    }
    name = "another" if wrong == "doubled" else runs[0].run_id
    where = {"altered": " in damaged, history", "damaged": " in damaged, history, left, predictions, record"}
    assert tally.bad == ([] if wrong == "nothing" else [f"a case: {wrong} {name}{where.get(tampered, '')}"])


def read_badly(kind, number, folder, seed):
    match number:
        case 3:
            raise KeyError("no sentence")
        case 5:
            time.sleep(60)
        case 7:
            return str(len(bytes(2 * fuzzed_inputs.MEMORY)))
        case 9:
            return "two\nlines"
    return "a sentence" if number % 2 else ""


def test_the_watchdog_sees_what_it_watches_for(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzed_inputs, "SECONDS", 1)
    tally = fuzzed_inputs.fuzz("CSV", 12, tmp_path, 4, read_badly)
    assert tally.counts == {
        **{"cases": 12, "read": 6, "refused": 3},  # 1, 11 and, against the rule, 9
        **{"stack traces": 1, "hangs": 1, "out of memory": 1, "ended by a signal": 0, "unclear messages": 1},
    }
    assert [text.partition(":")[0] for text in sorted(tally.bad)] == [
        f"fuzz CSV, seed 4, case {number}" for number in (3, 5, 7, 9)
    ]
