"""What a run records of its environment."""

import ctypes
import resource
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

import stableft
from stableft.config.planned_run import Execution
from stableft.training.environment import gpu_versions, keep_freed_memory, package_versions
from stableft.training.setup import prepare_device, torch_settings_restored


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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_a_cpu_run_takes_a_large_tensor_again_without_new_pages_and_gives_them_back_at_the_end():
    def new_pages() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(12 * 2**20)  # 48 MiB: at least 24 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with torch_settings_restored():
        prepare_device(Execution())
        new_pages()
        assert min(new_pages() for _ in range(3)) < 10
    assert new_pages() >= 24


def test_memory_is_left_to_a_c_library_without_the_setting(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    keep_freed_memory(True)
    keep_freed_memory(False)
