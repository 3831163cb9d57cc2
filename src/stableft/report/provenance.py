"""Where the numbers of a report come from: how many runs of whom, where they ran, and what is missing."""

from collections.abc import Iterator
from typing import Any

from stableft.report.blocks import Provenance
from stableft.report.gather import Runs

OWN = "this project"


def provenance(runs: Runs) -> Provenance:
    """Returns how many runs of each arm, task and origin there are, where they ran, and their ids."""
    counts = []
    for (arm, task), found in runs.by_place.items():
        by_origin: dict[str, int] = {}
        for run in found:
            if run["status"] == "finished":
                origin = run["source"] if isinstance(run["source"], str) else OWN
                by_origin[origin] = by_origin.get(origin, 0) + 1
        planned = runs.planned.get((arm, task), 0)
        counts += [(arm, task, origin, n, planned if origin == OWN else n) for origin, n in by_origin.items()]
        counts += [] if by_origin else [(arm, task, OWN, 0, planned)]
    ids = tuple(dict.fromkeys(run["run_id"] for found in runs.by_place.values() for run in found))
    return Provenance(tuple(counts), tuple(runs.environments.items()), ids)


def missing_runs(runs: Runs) -> Iterator[str]:
    """Yields for each sweep how many of its runs are not finished, and the command that fills the rest."""
    if runs.artifact.needs_no_run:
        return
    by_sweep: dict[str, list[int]] = {}
    for place, planned in runs.planned.items():
        own = (run for run in runs.by_place[place] if not isinstance(run["source"], str))
        done = sum(run["status"] == "finished" for run in own)
        if sweep := runs.sweeps.get(place):
            counts = by_sweep.setdefault(sweep, [0, 0])
            counts[0] += done
            counts[1] += planned
    for sweep, (done, planned) in by_sweep.items():
        if done < planned:
            yield f"{done:,} of {planned:,} runs of this project are there; `stableft sweep {sweep}` makes the rest."
    if runs.unused:
        yield (
            f"Imported runs of {', '.join(runs.unused)} are not shown here: no arm and task of the artefact has that "
            "name."
        )


def provenance_values(found: Provenance) -> dict[str, Any]:
    """Returns where a report's numbers come from as JSON values."""
    names = ("arm", "task", "origin", "finished", "planned")
    return {
        "runs": [dict(zip(names, run, strict=True)) for run in found.runs],
        "environments": [{"environment": text, "runs": n} for text, n in found.environments],
        "run_ids": list(found.run_ids),
    }
