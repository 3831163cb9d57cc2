"""Fetching from the hub: what is asked for, and the sentence when nobody answers. There is no network in the tests."""

import os
import re
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
from support.local_hub import make_glue_repository, serve_hub

from stableft.catalog.tasks import TASKS
from stableft.data import sources as hub
from stableft.data.sources import fetch_model, fetch_model_file, fetch_task
from stableft.errors import UserError


def test_a_task_is_fetched_as_it_is_read(monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "read_from_hub", lambda task, part, advice: asked.append((task.name, part)))
    fetch_task(TASKS["rte"])
    assert asked == [("rte", "train"), ("rte", "dev")]


@pytest.mark.parametrize(
    ("files", "weights", "said"),
    [
        (["model.safetensors", "pytorch_model.bin"], "*.safetensors", None),
        (["pytorch_model.bin"], "pytorch_model*.bin", "model someone/bert@v2: its repository has no safetensors"),
    ],
)
def test_a_model_is_fetched_with_its_weights_once(monkeypatch, files, weights, said):
    asked = {}
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name, revision: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **more: asked.update(more, name=name))
    warning = fetch_model("someone/bert@v2")
    assert warning is None if said is None else warning.startswith(said) and "--allow-pickle" in warning
    assert (asked["name"], asked["revision"]) == ("someone/bert", "v2")
    assert [pattern for pattern in asked["allow_patterns"] if "safetensors" in pattern or "bin" in pattern] == [weights]


def test_a_model_without_weights_that_can_be_read_is_not_fetched(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name, revision: ["config.json", "tf_model.h5"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **b: pytest.fail("nothing is downloaded"))
    with pytest.raises(UserError, match=r"data fetch: model someone/bert has no safetensors and no pytorch_model\.bin"):
        fetch_model("someone/bert")


@pytest.mark.parametrize(
    ("fetch", "advice"),
    [
        (fetch_model, "needs the network: .*, or give sweeps a folder with --set model=FOLDER"),
        (lambda name: fetch_model_file(name, "main", "config.json"), "run `stableft data fetch --model no-such-model"),
    ],
)
def test_a_hub_out_of_reach_is_one_sentence(monkeypatch, fetch, advice):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=f"cannot be reached and there is no cached copy; .*{advice}") as caught:
        fetch("no-such-model-anywhere")
    assert "\n" not in str(caught.value)


def test_fetching_data_without_a_network_does_not_advise_itself(monkeypatch):
    def no_network(*args, **options):
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr("datasets.load_dataset", no_network)
    monkeypatch.setattr("stableft.transient.RETRY_SECONDS", ())
    with pytest.raises(UserError, match=r"the hub; .* HF_HOME\) here, or give sweeps the original files") as got:
        fetch_task(TASKS["rte"])
    assert "run `stableft data fetch`" not in str(got.value)
    with pytest.raises(UserError, match="run `stableft data fetch` with network access"):
        hub.read_from_hub(TASKS["rte"], "train")


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("what", [("--model", "tiny"), ("rte",)])
def test_a_full_disk_is_no_fault_of_the_hub(disk, tmp_path, tiny_family, what):
    shutil.copytree(tiny_family("bert"), tmp_path / "hub" / "models" / "tiny")
    make_glue_repository(tmp_path / "hub" / "datasets")
    disk.fill()
    own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    with serve_hub(tmp_path / "hub") as address:
        done = subprocess.run(
            [sys.executable, "-m", "stableft", "data", "fetch", *what],
            env={**own, "HF_HOME": str(disk.folder / "huggingface"), "HF_ENDPOINT": address},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2, done.stderr
    assert re.search(rf"^stableft: cannot use {disk.folder}\S*: No space left on device\n\Z", done.stderr, re.M)
