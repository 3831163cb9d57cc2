"""Which runs a figure of probes shows, and what is said where their records are missing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from stableft.probe_record import Drift, GradNorms, Perplexity, ProbeRecord, Surface
from stableft.report.artifact import Drifts, Gradients, Group, Part, Perplexities, Surfaces, groups_of
from stableft.report.curve_panels import NONE_YET
from stableft.report.gather import Runs

Only = Literal["failed", "successful"]
RECORD: dict[type, type[ProbeRecord]] = {
    Gradients: GradNorms,
    Drifts: Drift,
    Perplexities: Perplexity,
    Surfaces: Surface,
}


class Shown(NamedTuple):
    """A run of this project and the group that it stands for."""

    group: Group
    run: Mapping[str, Any]  # a row of the frame

    @property
    def run_id(self) -> str:
        return self.run["run_id"]

    @property
    def seeds(self) -> str:
        """Its seed, or both where they differ."""
        init, data = self.run["seed_init"], self.run["seed_data"]
        return f"seed {init}" if init == data else f"seeds {init} and {data}"

    @property
    def name(self) -> str:
        return f"{self.group.label}, {self.seeds}"


def finished(runs: Runs, groups: Sequence[Group]) -> Iterator[Shown]:
    """Yields the finished runs of this project by group, then by seed."""
    for group in groups:
        found = [
            run
            for run in runs.by_place.get((group.arm, group.task), [])
            if run["status"] == "finished" and not isinstance(run["source"], str)
        ]
        found.sort(key=lambda run: (run["seed_init"], run["seed_data"], run["run_id"]))
        yield from (Shown(group, run) for run in found)


def only(runs: Runs, groups: Sequence[Group], which: Only) -> list[Shown]:
    """Returns those that failed, or that did not."""
    return [shown for shown in finished(runs, groups) if shown.run["failed"] is (which == "failed")]


def none_of(runs: Runs, groups: Sequence[Group], which: Only) -> str:
    """Returns why there are no such runs."""
    if not any(finished(runs, groups)):
        return NONE_YET
    return f"no run of {arms_of(groups)} has failed" if which == "failed" else f"every run of {arms_of(groups)} failed"


def arms_of(groups: Sequence[Group]) -> str:
    """Returns the arms in words."""
    *others, last = dict.fromkeys(group.arm for group in groups)
    return f"{', '.join(others)} and {last}" if others else last


def sweep_of(runs: Runs, groups: Sequence[Group]) -> str | None:
    """Returns the sweep file of the first of these groups that has one; a file of records has none."""
    return next((sweep for g in groups if (sweep := runs.sweeps.get((g.arm, g.task)))), None)


def one_again(runs: Runs, shown: Shown, options: str = "") -> str:
    """Returns the command that trains a finished run again and keeps what it lacks, or an empty text."""
    sweep = sweep_of(runs, [shown.group])
    if sweep is None:
        return ""
    arm, init = shown.run["arm"], shown.run["seed_init"]
    plain = init == shown.run["seed_data"] and not set(arm) & set(" ,=")  # else it is more than these options say
    return f"`stableft sweep {sweep}{f' --arms {arm} --seeds {init}' if plain else ''}{options} --complete`"


def all_again(runs: Runs, groups: Sequence[Group], options: str = "") -> str:
    """Returns the command that trains the finished runs of a sweep again which lack something, or an empty text."""
    sweep = sweep_of(runs, groups)
    return f"`stableft sweep {sweep}{options} --complete`" if sweep else ""


def probe_count(runs: Runs, parts: Sequence[Part]) -> int:
    """Returns how many records there are of what these parts show, each counted once."""
    ids: dict[type[ProbeRecord], set[str]] = {}
    for part in parts:
        if kind := RECORD.get(type(part)):
            ids.setdefault(kind, set()).update(shown.run_id for shown in finished(runs, list(groups_of(part))))
    return sum(len(runs.probes.about(kind, found)) for kind, found in ids.items())
