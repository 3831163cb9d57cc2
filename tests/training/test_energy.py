"""Joules, device time and money: how counters are read and shared, and what records and reports say of them."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.training_runs import train_run

from stableft.cli.sweep_commands import render_folder_status, render_sweep_status
from stableft.config.planned_run import Execution, RunInterrupted
from stableft.config.sweep_file import Sweep
from stableft.config.validation import check_price
from stableft.errors import UserError
from stableft.records.energy import EnergyRecord, EnergyTotals, describe_energy, make_energy_record
from stableft.records.run_record import (
    CHECKPOINT_FILE,
    dump_record,
    parse_record_as,
    read_record,
    run_folder,
    write_records_file,
)
from stableft.report.build import build_report
from stableft.report.forms.write import render_report
from stableft.report.runs import load_runs_from_file
from stableft.sweep.estimate import estimate_sweep, render_estimate
from stableft.training.checkpoint import read_with_checksum, write_with_checksum
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
    assert (used["gpu_joules"], used["device_seconds"], used["missing_seconds"]) == (2.0, 20.0, 10.0)
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
    totals.add(EnergyRecord(device_seconds=3600, cpu_joules=3.6e6, missing_seconds=600), "cpu")
    totals.add(EnergyRecord(device_seconds=0.0, gpu_joules=0.0, cpu_joules=0.0), "NVIDIA")
    (later,) = describe_energy(totals)
    assert " 2 kWh of GPUs (2 of 5 runs), 2 kWh of processors (3 of 5 runs), " in later
    assert "; no meter saw 0:10:00 of 1 run; " in later
    assert line.startswith(
        "Training took 1 GPU-hours (1 of 3 runs), 2 kWh of GPUs (1 of 3 runs), 1 kWh of processors (1 of 3 runs), "
        "5.00 at the price given (1 of 3 runs); "
    )


def test_the_sums_of_several_processes_say_what_no_meter_saw(machine, tmp_path):
    def go_on(used: dict[str, float], readable: bool) -> EnergyRecord | None:
        """Meters ten seconds and a joule more, as a process that resumes a run does."""
        powercap = machine.powercap if readable else tmp_path / "nowhere"
        machine.now = machine.own = machine.busy = 0.0
        clocks = {"clock": lambda: machine.now, "busy": lambda: (machine.own, machine.busy)}
        meter = EnergyMeter(torch.device("cpu"), powercap, None, tmp_path / "jobs", **clocks)
        machine.set("0", int((machine.powercap / "intel-rapl:0" / "energy_uj").read_text()) + 1_000_000)
        machine.now, machine.own, machine.busy = 10.0, 1.0, 1.0
        meter.add_to(used)
        meter.close()
        return make_energy_record(used, None, on_gpu=False)

    def record(seconds: float, joules: float, missing: float | None) -> EnergyRecord:
        return EnergyRecord(device_seconds=seconds, cpu_joules=joules, missing_seconds=missing)

    whole: dict[str, float] = {}
    assert [go_on(whole, True) for _ in range(2)] == [record(10, 1, None), record(20, 2, None)]
    lost: dict[str, float] = {}
    go_on(lost, True)
    assert [go_on(lost, readable) for readable in (False, False, True)] == [
        record(20, 1, 10), record(30, 1, 20), record(40, 2, 20),
    ]  # fmt: skip
    found: dict[str, float] = {}
    assert [go_on(found, False) for _ in range(2)] == [None, None]
    assert [go_on(found, readable) for readable in (True, True, False)] == [
        record(30, 1, 20), record(40, 2, 20), record(50, 2, 30),
    ]  # fmt: skip
    # Sums of an older version, which said nothing of what no meter saw.
    assert go_on({"device_seconds": 50.0, "cpu_joules": 7.0}, True) == record(60, 8, None)
    assert go_on({"device_seconds": 50.0, "cpu_joules": 7.0}, False) == record(60, 7, 10)
    assert go_on({"device_seconds": 50.0}, True) == record(60, 1, 50)


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
    assert "Training took 0 Wh of processors, " in text
    assert " at the price given (1 of 2 runs); a device is shared evenly" in text


@pytest.mark.parametrize("readable", [(True, False), (False, True), ("an older version", True), (True, True)])
def test_a_report_says_that_the_joules_are_of_a_part(toy_run, toy_sources, tmp_path, machine, monkeypatch, readable):
    """A run begins where the meter can be read, or cannot, and ends elsewhere."""
    results, run, begun = tmp_path / "results", toy_run(), 0.0
    for stop_at, seen in zip((5, None), readable, strict=True):
        powercap = machine.powercap if seen is True else tmp_path / "nowhere"
        meter = partial(EnergyMeter, powercap=powercap, jobs=tmp_path / "jobs")
        monkeypatch.setattr("stableft.training.loop.EnergyMeter", meter)
        with suppress(RunInterrupted):
            record = train_run(run, results, toy_sources, stop_at=stop_at)
        if stop_at:
            path = run_folder(results, run.run_id) / CHECKPOINT_FILE
            content = read_with_checksum(path)
            begun = content["energy"]["device_seconds"]
            if seen == "an older version":
                begun = content["seconds"]
                del content["energy"]
                with open(path, "wb") as file:
                    write_with_checksum(file, content)
    energy = record.environment.energy
    assert parse_record_as(type(record), dump_record(record)) == record
    write_records_file(tmp_path / "r.jsonl", [record])
    text = " ".join(render_report(build_report(load_runs_from_file(tmp_path / "r.jsonl")), "md").split())
    sweep = Sweep("toy", tmp_path / "toy.yaml", (run, replace(run, arm="the same")), toy_sources)
    for status in (render_sweep_status(sweep, results), render_folder_status(results)):
        assert next(line for line in status.splitlines() if line.startswith("Training took ")) in text
    if readable == (True, True):
        assert energy.missing_seconds is None
        assert "no meter saw" not in text
    else:
        assert energy.missing_seconds == pytest.approx(energy.device_seconds - begun if readable[0] is True else begun)
        assert 0 < energy.missing_seconds < energy.device_seconds
        assert re.search(r"Training took 0 Wh of processors; no meter saw 0:00:\d\d of 1 run; ", text)


def test_without_counters_and_a_price_a_cpus_record_is_as_before(toy_run, toy_sources, tmp_path, monkeypatch):
    monkeypatch.setattr("stableft.training.loop.EnergyMeter", partial(EnergyMeter, powercap=tmp_path / "nowhere"))
    record = train_run(toy_run(), tmp_path, toy_sources)
    assert record.environment.energy is None
    assert "energy" not in dump_record(read_record(tmp_path, record.run_id))
    write_records_file(tmp_path / "r.jsonl", [record])
    assert "Training took" not in render_report(build_report(load_runs_from_file(tmp_path / "r.jsonl")), "md")


def test_a_dry_run_tells_energy_and_money(toy_run, toy_sources, tmp_path, machine, monkeypatch):
    monkeypatch.setattr("stableft.sweep.estimate.EnergyMeter", partial(EnergyMeter, powercap=machine.powercap))
    sweep = Sweep("toy", tmp_path / "toy.yaml", (toy_run(),), toy_sources)
    estimate = estimate_sweep(sweep, tmp_path / "results", Execution(threads=1, price=1000.0), 1)
    (arm,) = estimate.arms
    assert arm.cost.watts == 0.0
    assert f"; 0 Wh of processors at the power measured; {1000 * arm.cost.seconds / 3600:.3g}" in render_estimate(
        estimate
    )
    assert " at 1000 an hour of a device" in render_estimate(estimate)
    command = replace(arm, arm="command", cost=replace(arm.cost, steps=0, watts=None))
    partly = replace(estimate, arms=(arm, command))
    assert "; 0 Wh of processors at the power measured (1 of 2 runs); " in render_estimate(partly)
