"""Joules, device time and money: how counters are read and shared, and what records and reports say of them."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.training_runs import train_run

from stableft.config.planned_run import Execution, RunInterrupted
from stableft.config.validation import check_price
from stableft.errors import UserError
from stableft.records.energy import EnergyRecord, EnergyTotals, describe_energy, make_energy_record
from stableft.records.run_record import dump_record, parse_record_as, read_record, write_records_file
from stableft.report.build import build_report
from stableft.report.forms.write import render_report
from stableft.report.runs import load_runs_from_file
from stableft.sweep.estimate import estimate_sweep, render_estimate
from stableft.training.energy import POWERCAP, EnergyMeter, Rapl

WRAP = 262_143_328_850  # microjoules, of a real processor


class Machine:
    """A machine with two packages and memory, whose counters and clocks a test sets."""

    def __init__(self, folder: Path):
        self.powercap, self.now, self.own, self.busy = folder / "powercap", 0.0, 0.0, 0.0
        for zone, name in {"0": "package-0", "0:0": "core", "0:1": "dram", "1": "package-1", "2": "psys"}.items():
            self.set(zone, 1_000_000)
            (self.powercap / f"intel-rapl:{zone}" / "name").write_text(f"{name}\n")
            (self.powercap / f"intel-rapl:{zone}" / "max_energy_range_uj").write_text(f"{WRAP}\n")

    def set(self, zone: str, microjoules: int) -> None:
        folder = self.powercap / f"intel-rapl:{zone}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "energy_uj").write_text(f"{microjoules}\n")

    def meter(self, jobs: Path, device: str = "cpu", nvml=None) -> EnergyMeter:
        clocks = {"clock": lambda: self.now, "busy": lambda: (self.own, self.busy)}
        return EnergyMeter(torch.device(device), self.powercap, nvml, jobs, **clocks)


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_packages_and_memory_are_added_up_and_counters_wrap_around(machine):
    rapl = Rapl(machine.powercap)
    for zone in ("0:0", "2"):  # included in others
        machine.set(zone, 9_000_000)
    machine.set("0", 3_000_000)
    machine.set("0:1", 1_500_000)
    assert rapl.joules() == 2.5
    machine.set("1", 0)  # it was at one joule
    assert rapl.joules() == pytest.approx(WRAP * 1e-6 - 1)
    assert rapl.joules() == 0


def test_without_counters_nothing_is_known(tmp_path, machine):
    assert Rapl(tmp_path / "nowhere").joules() is None
    (machine.powercap / "intel-rapl:0" / "energy_uj").unlink()
    rapl = Rapl(machine.powercap)
    machine.set("1", 2_000_000)
    assert rapl.joules() == 1
    for zone in ("0:1", "1"):
        (machine.powercap / f"intel-rapl:{zone}" / "energy_uj").write_text("no number")
    assert rapl.joules() is None


@pytest.mark.skipif(
    not any(os.access(path, os.R_OK) for path in POWERCAP.glob("intel-rapl:*/energy_uj")),
    reason="reads the counters of this machine's processors",
)
def test_the_counters_of_this_machine_rise():
    rapl = Rapl()
    sum(range(10**7))
    assert rapl.joules() > 0


def test_a_processors_energy_is_shared_by_busy_time_and_its_time_by_the_runs_on_it(machine, tmp_path):
    used: dict[str, float] = {}
    meter = machine.meter(tmp_path / "jobs")
    machine.now, machine.own, machine.busy = 5.0, 3.0, 4.0
    meter.add_to(used)
    assert used == {}  # too early
    machine.now = 20.0
    machine.set("0", 9_000_000)
    meter.add_to(used)
    assert used == {"device_seconds": 20.0, "cpu_joules": 6.0}  # three quarters of eight joules
    waits = "import psutil, sys; print(psutil.Process().create_time(), flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        created = other.stdout.readline().decode().strip()
        (tmp_path / "jobs" / "cpu" / f"{other.pid}-{created}").touch()  # as the meter of another run does
        machine.now = 30.0
        meter.add_to(used)
        assert used["device_seconds"] == 25.0
        other.stdin.close()
    machine.now = 40.0
    meter.add_to(used)  # the other is gone, however it ended
    assert used["device_seconds"] == 35.0
    meter.close()
    assert not list((tmp_path / "jobs" / "cpu").iterdir())


def test_a_gpu_is_read_by_its_id_and_shared_evenly(machine, tmp_path, monkeypatch):
    """NVML stands in for one: there is no GPU here."""
    counter, asked = [5_000], []
    nvml = SimpleNamespace(
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid) or "handle",
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: counter[0],  # millijoules
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="ab-12"))
    used: dict[str, float] = {}
    meters = [machine.meter(tmp_path / "jobs", "cuda:0", nvml)]
    assert asked == ["GPU-ab-12"]
    (tmp_path / "jobs" / "gpu-ab-12" / f"{os.getppid()}-0.5").touch()  # an id that was given again to another process
    counter[0], machine.now = 7_000, 10.0
    meters[0].add_to(used, at_once=True)
    assert (used["gpu_joules"], used["device_seconds"]) == (2.0, 10.0)

    def broken(handle):
        raise RuntimeError("GPU is lost")

    nvml.nvmlDeviceGetTotalEnergyConsumption = broken
    machine.now = 20.0
    meters[0].add_to(used)
    assert (used["gpu_joules"], used["device_seconds"]) == (2.0, 20.0)
    meters[0].close()


def test_a_jobs_folder_that_cannot_be_made_stops_nothing(machine, tmp_path):
    (tmp_path / "file").write_text("")
    used: dict[str, float] = {}
    meter = machine.meter(tmp_path / "file" / "jobs")
    machine.now = 3.0
    meter.add_to(used, at_once=True)
    assert used["device_seconds"] == 3.0
    meter.close()


def test_a_record_says_it_only_where_there_is_something_to_say():
    used = {"device_seconds": 7200.0, "cpu_joules": 3.6e6}
    assert make_energy_record({"device_seconds": 1.0}, None, on_gpu=False) is None
    assert make_energy_record({}, 2.0, on_gpu=True) is None  # it was not metered
    assert make_energy_record({"device_seconds": 1.0}, None, on_gpu=True) == EnergyRecord(device_seconds=1.0)
    record = make_energy_record(used, 2.5, on_gpu=False)
    assert record == EnergyRecord(device_seconds=7200.0, cpu_joules=3.6e6, price=2.5)
    totals = EnergyTotals()
    assert list(describe_energy(totals)) == []
    totals.add(None, "cpu")
    totals.add(record, "cpu")
    totals.add(EnergyRecord(device_seconds=3600, gpu_joules=7.2e6), "NVIDIA")
    (line,) = describe_energy(totals)
    assert line.startswith(
        "Training took 1 GPU-hours (1 of 3 runs), 3 kWh (2 of 3 runs), 5.00 at the price given (1 of 3 runs); "
    )


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf"), "2"])
def test_a_price_is_a_number_from_0(price):
    with pytest.raises(UserError, match=r"--price .*: must be a number from 0"):
        check_price(price, "--price ")


def test_a_run_is_metered_through_an_interruption_and_its_report_says_so(
    toy_run, toy_sources, tmp_path, machine, monkeypatch
):
    meter = partial(EnergyMeter, powercap=machine.powercap, jobs=tmp_path / "jobs")
    monkeypatch.setattr("stableft.training.loop.EnergyMeter", meter)
    results, run = tmp_path / "results", toy_run()
    with pytest.raises(RunInterrupted):
        train_run(run, results, toy_sources, stop_at=5, price=3.6)
    machine.set("0", 2_000_000)
    record = train_run(run, results, toy_sources, price=3.6)
    energy = record.environment.energy
    assert energy.price == 3.6
    assert energy.device_seconds == pytest.approx(record.seconds, rel=0.5)
    assert energy.cpu_joules == 0.0  # no counter moved during the run
    assert parse_record_as(type(record), dump_record(record)) == record
    plain = train_run(toy_run(seeds={"init": 2, "data": 2}), results, toy_sources)
    assert plain.environment.energy.price is None
    write_records_file(tmp_path / "r.jsonl", [record, plain])
    text = render_report(build_report(load_runs_from_file(tmp_path / "r.jsonl")), "md")
    assert "Training took 0 Wh, " in text
    assert " at the price given (1 of 2 runs); a device is shared evenly" in text


def test_without_counters_and_a_price_a_cpus_record_is_as_before(toy_run, toy_sources, tmp_path, monkeypatch):
    monkeypatch.setattr("stableft.training.loop.EnergyMeter", partial(EnergyMeter, powercap=tmp_path / "nowhere"))
    record = train_run(toy_run(), tmp_path, toy_sources)
    assert record.environment.energy is None
    assert "energy" not in dump_record(read_record(tmp_path, record.run_id))
    write_records_file(tmp_path / "r.jsonl", [record])
    assert "Training took" not in render_report(build_report(load_runs_from_file(tmp_path / "r.jsonl")), "md")


def test_a_dry_run_tells_energy_and_money(toy_run, toy_sources, tmp_path, machine, monkeypatch):
    from stableft.config.sweep_file import Sweep

    monkeypatch.setattr("stableft.sweep.estimate.EnergyMeter", partial(EnergyMeter, powercap=machine.powercap))
    sweep = Sweep("toy", tmp_path / "toy.yaml", (toy_run(),), toy_sources)
    estimate = estimate_sweep(sweep, tmp_path / "results", Execution(threads=1, price=1000.0), 1)
    (arm,) = estimate.arms
    assert arm.cost.watts == 0.0
    assert f"; 0 Wh at the power measured; {1000 * arm.cost.seconds / 3600:.3g}" in render_estimate(estimate)
    assert " at 1000 an hour of a device" in render_estimate(estimate)
