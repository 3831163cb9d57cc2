"""The environment of a run: versions, commit, hardware. Never environment variables, host names or paths."""

import ctypes
import functools
import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

from stableft.version import find_version

RECORDED_PACKAGES = ("stableft", "torch", "transformers", "tokenizers", "datasets", "numpy", "scipy", "scikit-learn")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # in glibc's malloc.h


@functools.cache
def package_versions() -> dict[str, str]:
    """Return the versions of Python and of every package that can affect results."""
    others = {name: metadata.version(name) for name in RECORDED_PACKAGES[1:]}
    return {"python": platform.python_version(), "stableft": find_version(), **others}


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """Return commit and dirty flag of the checkout that this code runs from, or (None, None) without one."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def commit_label() -> str:
    """Return the commit of this code, with "-dirty" if it had uncommitted changes; "unknown" without a checkout."""
    commit, dirty = git_state()
    return f"{commit or 'unknown'}{'-dirty' if dirty else ''}"


def platform_name() -> str:
    """Return system and processor, such as "Linux x86_64"."""
    return f"{platform.system()} {platform.machine()}"


@functools.cache
def processor_name() -> str | None:
    """Return the model of the CPU, which decides on its vector instructions, or None if it is not to be had."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor() or None


def device_name(device: torch.device) -> str:
    """Return "cpu" or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@functools.cache
def gpu_versions(device: torch.device) -> dict[str, str]:
    """Return the versions of what may choose other kernels on a GPU, as far as they can be read; none on a CPU."""
    if device.type != "cuda":
        return {}
    cudnn = torch.backends.cudnn.version()
    found = {
        "cuda": torch.version.cuda,
        "cudnn": str(cudnn) if cudnn else None,
        "cublas": _cublas_version(),
        "driver": _driver_version(),
    }
    return {name: version for name, version in found.items() if version}


def _cublas_version() -> str | None:
    """Return the version of the cuBLAS that torch has loaded, wherever it was installed."""
    try:
        name = f"libcublas.so.{(torch.version.cuda or '').partition('.')[0]}"
        library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD)  # that which is loaded, by its name; none is loaded now
        numbers = [ctypes.c_int() for _ in range(3)]
        for part, number in enumerate(numbers):  # major, minor, patch
            if library.cublasGetProperty(part, ctypes.byref(number)):
                return None
    except (OSError, AttributeError):  # linked into torch, or not Linux
        return None
    return ".".join(str(number.value) for number in numbers)


def _driver_version() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    except (OSError, subprocess.SubprocessError):
        lines = []  # as in a container without the tool
    return lines[0] if lines else None


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: on a GPU, allocated by this run; on the CPU, used by this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS reports bytes, Linux kilobytes


def keep_freed_memory(keep: bool) -> None:
    """Let this process keep what it frees, up to 1 GiB, or return it to the system, as is usual.

    Usually, glibc maps a tensor above 32 MB, such as the gradient of word embeddings, anew for each update, and the
    system has to zero its pages. What was set before cannot be read: False sets the largest thresholds that glibc takes
    by itself. Other C libraries are left as they are.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(M_MMAP_MAX, 0 if keep else 2**16)
    libc.mallopt(M_MMAP_THRESHOLD, 2**25)
    libc.mallopt(M_TRIM_THRESHOLD, 2**30 if keep else 2**26)
    if not keep:
        libc.malloc_trim(0)


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
