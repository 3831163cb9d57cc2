"""What a run records of its environment."""

from importlib import metadata

import torch

import stableft
from stableft.training.environment import gpu_versions, package_versions


def test_a_checkout_that_is_not_installed_has_its_version_too(monkeypatch):
    """As on a machine whose Python has the dependencies alone."""
    find, installed = metadata.version, package_versions()

    def find_others(name: str) -> str:
        if name == "stableft":
            raise metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(metadata, "version", find_others)
    assert stableft.__version__ == installed["stableft"]
    assert package_versions.__wrapped__() == installed


def test_a_cpu_needs_no_version_of_a_gpus_software():
    assert gpu_versions(torch.device("cpu")) == {}
