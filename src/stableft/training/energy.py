"""Meter the energy and device time of a run: a GPU's by NVML, the processors' by RAPL, each where it can be read."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch

POWERCAP = Path("/sys/class/powercap")
JOBS_FOLDER = Path(tempfile.gettempdir()) / f"stableft-jobs-{os.getuid() if hasattr(os, 'getuid') else 'all'}"
READ_SECONDS = 10.0  # between readings: a RAPL counter wraps around after 20 minutes at 200 W


class Rapl:
    """The counters of the processors' packages and of their memory."""

    def __init__(self, powercap: Path = POWERCAP):
        self._last = {zone: energy for zone in _rapl_zones(powercap) if (energy := _read_number(zone / "energy_uj"))}

    def joules(self) -> float | None:
        """Return the joules of all zones since the last call, or None if none can be read."""
        total, known = 0.0, False
        for zone, before in self._last.items():
            now = _read_number(zone / "energy_uj")
            if now is None:
                continue
            known, self._last[zone] = True, now
            # A counter that is smaller than before has wrapped around, at the number in the file beside it.
            total += now - before + ((_read_number(zone / "max_energy_range_uj") or 0) if now < before else 0)
        return max(0.0, total) * 1e-6 if known else None


def _rapl_zones(powercap: Path) -> Iterator[Path]:
    """Yield the packages, and the memory, which no package includes. `psys` is left out: it includes them all."""
    for zone in sorted(powercap.glob("intel-rapl:*")):  # AMD's processors have the same names
        with contextlib.suppress(OSError):
            name = (zone / "name").read_text().strip()
            if name.startswith("package") or name == "dram":
                yield zone


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # only root may read it, since 2020
        return None


def load_nvml() -> ModuleType | None:
    """Return the module of NVML, started, or None if the package nvidia-ml-py or the driver is not there."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]

        pynvml.nvmlInit()
    except Exception:  # ImportError, a warning as an error, or one of NVML's many
        return None
    return pynvml


def _process_and_machine() -> tuple[float, float]:
    """Return the processor seconds of this process, and those of the whole machine that were not idle."""
    times = psutil.cpu_times()
    busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return time.process_time(), busy


class EnergyMeter:
    """Adds what a run takes of its device to a mapping of sums, as in `records.energy.EnergyRecord`.

    While it is open, a file in `jobs` tells the meters of other runs that this run is on the device.
    """

    def __init__(
        self,
        device: torch.device,
        powercap: Path = POWERCAP,
        nvml: Any = None,
        jobs: Path = JOBS_FOLDER,
        clock: Callable[[], float] = time.monotonic,
        busy: Callable[[], tuple[float, float]] = _process_and_machine,
    ):
        self._clock, self._busy, self._rapl = clock, busy, Rapl(powercap)
        self._nvml, self._handle, uuid = nvml, None, ""
        if device.type == "cuda" and torch.cuda.is_available():
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            self._nvml = nvml or load_nvml()
            if self._nvml:
                with contextlib.suppress(Exception):  # NVML's errors: a MIG slice has no handle of that name
                    self._handle = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        self._jobs = jobs / (f"gpu-{uuid}" if uuid else "cpu")
        self._job = self._jobs / f"{os.getpid()}-{psutil.Process().create_time()}"
        with contextlib.suppress(OSError):
            self._jobs.mkdir(parents=True, exist_ok=True)
            self._job.touch()
        self._at, self._busy_at, self._gpu_at = clock(), busy(), self._gpu_joules()

    def add_to(self, used: MutableMapping[str, float], at_once: bool = False) -> None:
        """Add what was used since the last reading, if that was long enough ago."""
        now = self._clock()
        if now - self._at < READ_SECONDS and not at_once:
            return
        share = 1 / max(1, self._count_jobs())
        seconds, before, self._at = (now - self._at) * share, used.get("device_seconds", 0.0), now
        joules: dict[str, float | None] = {"gpu_joules": None, "cpu_joules": None}
        gpu, (own, busy), (own_before, busy_before) = self._gpu_joules(), self._busy(), self._busy_at
        if gpu is not None and self._gpu_at is not None:
            joules["gpu_joules"] = (gpu - self._gpu_at) * share
        self._gpu_at, self._busy_at = gpu, (own, busy)
        cpu = self._rapl.joules()
        if cpu is not None:
            joules["cpu_joules"] = cpu * min(1.0, (own - own_before) / max(busy - busy_before, 1e-9))
        missing = used.get("missing_seconds", 0.0)
        # Sums begun by a process that could read a meter, or could not, go on in one that differs in this.
        if any(amount is not None and name not in used for name, amount in joules.items()):
            missing = before
        if any(amount is None and name in used for name, amount in joules.items()):
            missing += seconds
        for name, amount in joules.items():
            if amount is not None:
                used[name] = used.get(name, 0.0) + amount
        used["device_seconds"] = before + seconds
        if missing:
            used["missing_seconds"] = missing

    def _gpu_joules(self) -> float | None:
        """Return the GPU's energy counter, which only rises, or None on a GPU older than Volta."""
        if self._handle is None or self._nvml is None:
            return None
        try:
            return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) * 1e-3
        except Exception:  # NVML's errors
            return None

    def _count_jobs(self) -> int:
        """Return how many runs are on the device now. Files of processes that are gone are removed."""
        count = 0
        with contextlib.suppress(OSError):
            for path in self._jobs.iterdir():
                pid, _, created = path.name.partition("-")
                try:
                    count += psutil.Process(int(pid)).create_time() == float(created)
                except (psutil.Error, ValueError):
                    path.unlink(missing_ok=True)
        return count

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._job.unlink(missing_ok=True)
