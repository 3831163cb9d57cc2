"""A user's own data and model from the command line: what is told of the rows, and weights that must be allowed."""

import json

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
