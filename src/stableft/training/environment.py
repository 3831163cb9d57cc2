"""Where a run ran: versions, commit, hardware; never an environment variable, host name or path."""

import functools
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

RECORDED_PACKAGES = ("stableft", "torch", "transformers", "tokenizers", "datasets", "numpy", "scipy", "scikit-learn")


@functools.cache
def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of every package that can change a number."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in RECORDED_PACKAGES}}


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """Returns commit and dirty flag of the checkout this code runs from; None where it is no checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def platform_name() -> str:
    """Returns system and processor, such as "Linux x86_64"."""
    return f"{platform.system()} {platform.machine()}"


def device_name(device: torch.device) -> str:
    """Returns "cpu" or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory(device: torch.device) -> int:
    """Returns bytes: on a GPU the most this run had allocated, on a CPU the most this process ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
