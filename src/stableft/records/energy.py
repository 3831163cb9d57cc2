"""What runs took and cost: device time, joules, money, as records and reports state them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from stableft.config.run_config import omitted_if_none
from stableft.text import format_duration

JOULES_PER_KWH = 3.6e6
METERS = {"gpu_joules": "GPUs", "cpu_joules": "processors"}  # fields of `EnergyRecord` -> of what they are, in words


class EnergyRecord(BaseModel):
    """What a run took of its device, and the electricity; None: could not be read.

    `device_seconds` and `gpu_joules` are the run's share of its device: at every reading, a device is divided evenly
    between the runs that are on it. `cpu_joules` are those of the machine's processors by the share of the run's
    process in their busy time. `missing_seconds` are those that a meter of these joules did not see, because a process
    that trained a part of the run could not read it. `price` is that of an hour of the device, in any currency.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    device_seconds: float
    gpu_joules: float | None = omitted_if_none()
    cpu_joules: float | None = omitted_if_none()
    missing_seconds: float | None = omitted_if_none()  # None: all were seen, or there are no joules
    price: float | None = omitted_if_none()


def make_energy_record(used: Mapping[str, float], price: float | None, on_gpu: bool) -> EnergyRecord | None:
    """Return the record of what a meter added up, or None if it says no more than the run's seconds."""
    joules = {name: used[name] for name in METERS if name in used}
    if not used or not (joules or on_gpu or price is not None):
        return None
    missing = used.get("missing_seconds") if joules else None
    return EnergyRecord(device_seconds=used["device_seconds"], price=price, missing_seconds=missing, **joules)


@dataclass
class EnergyTotals:
    """Sums over runs, and of how many runs each is known."""

    runs: int = 0
    gpu_runs: int = 0
    device_seconds: float = 0.0
    metered: dict[str, int] = field(default_factory=dict)  # by the names of `METERS`, as `joules`
    joules: dict[str, float] = field(default_factory=dict)
    partly_metered: int = 0
    missing_seconds: float = 0.0
    priced: int = 0
    money: float = 0.0

    def add(self, energy: EnergyRecord | None, device: str) -> None:
        self.runs += 1
        if energy is None:
            return
        self.gpu_runs += device != "cpu"
        self.device_seconds += energy.device_seconds if device != "cpu" else 0
        for name in METERS:
            if (joules := getattr(energy, name)) is not None:
                self.metered[name] = self.metered.get(name, 0) + 1
                self.joules[name] = self.joules.get(name, 0.0) + joules
        self.partly_metered += energy.missing_seconds is not None
        self.missing_seconds += energy.missing_seconds or 0
        if energy.price is not None:
            self.priced += 1
            self.money += energy.price * energy.device_seconds / 3600


def describe_energy(totals: EnergyTotals) -> Iterable[str]:
    """Yield a line on what runs took and cost, or nothing if no record says so."""
    parts = []
    if totals.gpu_runs:
        parts.append(f"{totals.device_seconds / 3600:.3g} GPU-hours{describe_share(totals.gpu_runs, totals.runs)}")
    for name in METERS:
        if known := totals.metered.get(name):
            parts.append(f"{format_energy(totals.joules[name])} of {METERS[name]}{describe_share(known, totals.runs)}")
    if totals.priced:
        parts.append(f"{format_money(totals.money)} at the price given{describe_share(totals.priced, totals.runs)}")
    if parts:
        n, missing = totals.partly_metered, format_duration(totals.missing_seconds)
        unseen = f"; no meter saw {missing} of {n} run{'s' * (n > 1)}" if n else ""
        yield (
            f"Training took {', '.join(parts)}{unseen}; a device is shared evenly by the runs that are on it, and the "
            "processors' energy by busy time."
        )


def describe_share(known: int, runs: int) -> str:
    """Return, in brackets, of how many runs a sum is if not of all."""
    return f" ({known} of {runs} runs)" if known != runs else ""


def format_energy(joules: float) -> str:
    """Return an amount of energy in kWh, or in Wh if it is small."""
    kwh = joules / JOULES_PER_KWH
    return f"{kwh:.3g} kWh" if kwh >= 0.1 else f"{1000 * kwh:.3g} Wh"


def format_money(amount: float) -> str:
    """Return an amount of money in the currency of the price, to the hundredth or to three digits."""
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.3g}"
