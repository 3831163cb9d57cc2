"""A user's own data and model from the command line: what is told of the rows, and weights that must be allowed."""

import json
import re

import pytest
import torch
from support.training_runs import write_tiny_bert

from stableft.config.local_files import ALLOW_PICKLE

pytestmark = pytest.mark.usefixtures("warm_workers")

ROWS = "".join(f"a{i},{'no' if i % 2 else 'yes'}\n" for i in range(8))
SWEEP = """model: model
recipe: devlin
seeds: 1-2
set: {data.max_length: 16, schedule.length: {steps: 2}}
task: {name: mine, train: train.csv, validation: dev.csv, text: s, label: y, labels: ['no', 'yes'], metric: accuracy}
"""


@pytest.fixture
def sweep(workplace, tiny_tokenizer):
    write_tiny_bert(workplace / "model", tiny_tokenizer, lambda _: None)
    (workplace / "train.csv").write_text(f"s,y\n{ROWS}")
    (workplace / "dev.csv").write_text("s,y\na0,yes\nb,no\nc,yes\n")
    (workplace / "s.yaml").write_text(SWEEP)
    return workplace


@pytest.mark.slow
def test_odd_rows_are_told_at_the_start_and_in_the_report(sweep, stableft):
    told = "1 of 3 validation rows have the text of a training row"
    code, out, err = stableft("sweep", "s.yaml", "--devices", "cpu")
    assert code == 0, err
    assert out.startswith(f"note: task 'mine': {told}\n")
    assert f"{told}." in " ".join(stableft("report", "s.yaml", "--notes")[1].split())
    assert f"devlin on mine: {told}." in " ".join(stableft("report", "s.yaml", "--format", "md")[1].split())
    records = [json.loads(path.read_text()) for path in (sweep / "results" / "runs").glob("*/record.json")]
    assert [record["data_notes"] for record in records] == [[told]] * 2
    (sweep / "dev.csv").write_text("s,y\nd,yes\nb,no\nc,yes\n")
    assert stableft("sweep", "s.yaml", "--devices", "cpu", "--seeds", "1")[0] == 0
    records = [json.loads(path.read_text()) for path in (sweep / "results" / "runs").glob("*/record.json")]
    assert sum("data_notes" in record for record in records) == 2 < len(records)


@pytest.mark.slow
def test_pickled_weights_need_the_users_word(sweep, stableft, monkeypatch):
    monkeypatch.setenv(ALLOW_PICKLE, "0")  # restored after the test, in which the command sets it
    from safetensors.torch import load_file

    torch.save(load_file(sweep / "model" / "model.safetensors"), sweep / "model" / "pytorch_model.bin")
    (sweep / "model" / "model.safetensors").unlink()
    code, _, err = stableft("sweep", "s.yaml", "--devices", "cpu")
    assert (code, err.count("\n")) == (2, 1)
    assert "pytorch_model.bin are a pickle" in err
    assert "--allow-pickle" in err
    assert not (sweep / "results").exists()
    code, _, err = stableft("sweep", "s.yaml", "--devices", "cpu", "--allow-pickle")
    assert code == 0, err


LINKS = {
    "results": r"--results results: results is a link to gone, which does not exist",
    "results/runs": r"--results results/runs/a: results/runs is a link to gone, which does not exist",
    "model": r"s\.yaml:1: model: 'model' is a link to gone, which does not exist",
    "train.csv": r"s\.yaml:5: task: train: there is no file 'train\.csv'",
    "glue": r"--data-dir glue: there is no such folder",
}


@pytest.mark.faults
@pytest.mark.parametrize("name", LINKS)
def test_a_link_to_nothing_gets_a_sentence(sweep, stableft, name):
    """And is not taken for a name on the hub, nor for a folder to be made."""
    if (sweep / name).exists():
        (sweep / name).rename(sweep / "moved")
    (sweep / name).parent.mkdir(exist_ok=True)
    (sweep / name).symlink_to("gone")
    where = ("--results", "results/runs/a") if name == "results/runs" else ()
    more = ("--data-dir", "glue") if name == "glue" else where
    code, out, err = stableft("sweep", "s.yaml", "--devices", "cpu", *more)
    assert code == 2
    assert re.fullmatch(rf"stableft: {LINKS[name]}\n", err)
    assert "Traceback" not in out
    assert not (sweep / name).exists()


@pytest.mark.faults
@pytest.mark.slow
def test_a_checkpoint_that_is_a_link_to_nothing(sweep, stableft):
    from stableft.config.planned_run import LocalPaths
    from stableft.config.sweep_file import load_sweep

    folder = sweep / "results" / "runs" / load_sweep("s.yaml", LocalPaths()).runs[0].run_id
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").symlink_to("gone/away")
    code, out, err = stableft("sweep", "s.yaml", "--devices", "cpu", "--checkpoint-every", "1")
    assert code == 2
    assert re.fullmatch(
        r"stableft: \S+/checkpoint\.pt is a link to gone/away, which does not exist; delete it .*\n", err
    )
    assert "Traceback" not in out
    assert not list(sweep.glob("results/runs/*/record.json"))
