"""Which runs of a sweep with a rule may start: those of the next look, then those of the look after it.

Nothing is kept but records: the looks are computed again whenever a run ends, here or in another process.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stableft.catalog.tasks import task_title
from stableft.config.decide_rule import ABOUT_TITLES, DecideRule, describe_rule
from stableft.config.planned_run import PlannedRun
from stableft.config.sweep_file import Sweep
from stableft.errors import UserError
from stableft.records.decision import ArmTask, ClaimDecision, Decision, SeedRun, apply_rule, as_seed_run
from stableft.records.failure import judged_as_planned
from stableft.records.run_record import RECORD_FILE, RunRecord, read_record, run_folder
from stableft.sweep.progress import Notice, ShowEvent, show_nothing
from stableft.sweep.state import read_sweep_state

LOOK_SECONDS = 1.0  # between looks for records that another process has written


@dataclass
class WantedSeeds:
    """The claims of a sweep as they stand. `places` are the runs of the arms in a claim, in order of their seeds."""

    rule: DecideRule
    places: dict[ArmTask, list[PlannedRun]]
    others: list[str]  # ids of runs that are in no claim and not done, all of which are trained
    results: Path
    show: ShowEvent
    retried: set[str]  # ids of crashed runs that are tried again, whose old records say nothing
    passed: set[str] = field(default_factory=set)  # ids of those that are not, because looks have passed them
    known: dict[str, SeedRun] = field(default_factory=dict)
    decision: Decision | None = None
    wanted: tuple[str, ...] = ()
    looked_at: float = 0.0

    def __call__(self, records: Mapping[str, RunRecord]) -> tuple[str, ...]:
        """Return the ids of the runs that may start now, in order; the same object if nothing has changed.

        `records` are those of runs that ended in this sweep.
        """
        new = [run for run in self._unknown() if run.run_id in records]
        for run in new:
            self.known[run.run_id] = as_seed_run(judged_as_planned(records[run.run_id], run.config), run.report)
        if time.monotonic() >= self.looked_at + LOOK_SECONDS or self.decision is None:
            new += self._read_records()
            self.looked_at = time.monotonic()
        done = records.keys() | self.known.keys()
        others = [run_id for run_id in self.others if run_id not in done]
        if new or self.decision is None:
            self._decide()
        elif len(others) == len(self.others):
            return self.wanted
        self.others = others
        assert self.decision is not None
        self.wanted = (*self._order(self.decision), *others)
        return self.wanted

    @property
    def unneeded(self) -> set[str]:
        """The ids of the runs that no claim needs any more, whether or not they have run."""
        closed = set() if self.decision is None else self._runs_of_closed_arms(self.decision)
        return {run_id for run_id in closed if run_id not in self.known} - set(self.others) | self.passed

    def let_retry(self, crashed: set[str]) -> None:
        """Have crashed runs tried again but for those that a look has passed: they would change what it said."""
        self.passed = self.find_passed(crashed)
        self.retried |= crashed - self.passed
        if self.passed:
            self.show(Notice(describe_passed(len(self.passed))))

    def find_passed(self, crashed: set[str]) -> set[str]:
        """Return those of the crashed runs that a look has passed, going by the records of all of them."""
        looks = replace(self, show=show_nothing, known={}, decision=None, retried=set())
        looks({})
        assert looks.decision is not None
        places = [(place, claim.passed) for claim in looks.decision.claims for place in _places_of(claim)]
        return {run_id for place, n in places for run_id in crashed.intersection(looks._needed_runs(place, n))}

    def _unknown(self) -> list[PlannedRun]:
        return [run for runs in self.places.values() for run in runs if run.run_id not in self.known]

    def _read_records(self) -> list[PlannedRun]:
        """Take in the records that are there, and return their runs."""
        found = []
        ids = set(self.wanted)
        for run in self._unknown():
            if self.decision is not None and run.run_id not in ids:
                continue
            if run.run_id in self.retried or not (run_folder(self.results, run.run_id) / RECORD_FILE).exists():
                continue
            try:
                record = read_record(self.results, run.run_id)
            except UserError:  # damaged: the run is done again
                continue
            if record and record.status in ("finished", "crashed"):
                self.known[run.run_id] = as_seed_run(judged_as_planned(record, run.config), run.report)
                found.append(run)
        return found

    def _decide(self) -> None:
        before = {} if self.decision is None else {_key(claim): claim for claim in self.decision.claims}
        runs = {
            place: [self.known.get(run.run_id, SeedRun(None)) for run in planned]
            for place, planned in self.places.items()
        }
        self.decision = apply_rule(self.rule, runs, with_estimates=False)
        for claim in self.decision.claims:
            old = before.get(_key(claim))
            if claim.is_closed and not (old and old.is_closed):
                self.show(Notice(describe_verdict(claim)))

    def _order(self, decision: Decision) -> list[str]:
        """Return the runs of the next look by seed, so that the arms keep in step, then those of the look after it."""
        ordered: dict[str, None] = {}
        for ahead in (False, True):
            needed = decision.wanted(ahead)
            columns = [self._needed_runs(place, n) for place, n in needed.items()]
            longest = max(map(len, columns), default=0)
            for i in range(longest):
                ordered |= dict.fromkeys(column[i] for column in columns if i < len(column))
        return [run_id for run_id in ordered if run_id not in self.known]

    def _needed_runs(self, place: ArmTask, n: int) -> list[str]:
        """Return the ids of an arm's first runs of which n have not crashed."""
        ids: list[str] = []
        for run in self.places.get(place, []):
            if n == 0:
                break
            ids.append(run.run_id)
            n -= self.known.get(run.run_id, SeedRun(None)).status != "crashed"
        return ids

    def _runs_of_closed_arms(self, decision: Decision) -> set[str]:
        needed = {place for claim in decision.claims if not claim.is_closed for place in _places_of(claim)}
        return {run.run_id for place, runs in self.places.items() if place not in needed for run in runs}


def _key(claim: ClaimDecision) -> tuple[str, str, str]:
    return claim.about, claim.task, claim.arm


def _places_of(claim: ClaimDecision) -> tuple[ArmTask, ArmTask]:
    return (claim.reference, claim.task), (claim.arm, claim.task)


def describe_verdict(claim: ClaimDecision) -> str:
    """Return the verdict of a claim in a few words."""
    return (
        f"{claim.arm} against {claim.reference} on {task_title(claim.task)}: the {ABOUT_TITLES[claim.about]} is "
        f"{claim.verdict} after {claim.n} runs of each"
    )


def describe_passed(crashed: int) -> str:
    """Return why so many crashed runs are not tried again."""
    runs, them = ("run is", "it") if crashed == 1 else ("runs are", "them")
    return (
        f"{crashed} crashed {runs} not tried again, because a look has passed {them}; for more evidence, add seeds to "
        "the end of the sweep's"
    )


def find_unneeded(sweep: Sweep, results: Path, retried: set[str]) -> set[str]:
    """Return the ids of a sweep's runs that no claim of its rule needs any more, going by the records."""
    if sweep.decide is None:
        return set()
    claims = make_wanted_seeds(sweep.decide, sweep.runs, results, show_nothing, retried)
    claims({})
    return claims.unneeded


def make_wanted_seeds(
    rule: DecideRule, runs: Sequence[PlannedRun], results: Path, show: ShowEvent, retried: set[str]
) -> WantedSeeds:
    """Return which of these runs may start, before any is looked at."""
    names = list(dict.fromkeys(run.arm for run in runs))
    between = rule.between or names
    places: dict[ArmTask, list[PlannedRun]] = {}
    for name in between:
        for run in runs:
            if run.arm == name:
                places.setdefault((name, run.config.data.task), []).append(run)
    # A claim needs the reference on its task.
    tasks = {task for name, task in places if name != between[0] and (between[0], task) in places}
    in_claim = {run.run_id for (_, task), planned in places.items() if task in tasks for run in planned}
    free = {run.run_id: run for run in runs if run.run_id not in in_claim}
    state = read_sweep_state(results, free.values(), look_only=True, brief=True)
    done = {record.run_id for record in (*state.finished, *state.crashed)} - retried
    others = [run_id for run_id in free if run_id not in done]
    show(Notice(f"Rule: {describe_rule(rule, list(between))}"))
    claims = WantedSeeds(rule, places, others, results, show, set())
    if retried:
        claims.let_retry(retried)
    return claims
