"""The numbers of a group of runs, once of all of them and once of those that did not fail, and what they mean."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stableft.probes.points import (
    NO_ANSWER,
    Agreement,
    PerPoint,
    Whole,
    agreement,
    answer_counts,
    as_a_whole,
    disagreements,
    per_point,
    variances,
)
from stableft.probes.points_data import Group
from stableft.report.battery import BOOTSTRAP_SEED
from stableft.report.pair_words import shown_p

ALL, FINE = "all runs", "runs that did not fail"
ALPHA = 0.05
NO_LABELS = {  # by whether there are classes
    True: "variances and accuracies are missing: which runs are right is not known without --label",
    False: "MSE and S_ours are missing: what is right is not known without --label",
}


@dataclass(frozen=True)
class View:
    """Some runs of a group and their numbers. `right` [runs, examples] is None for numbers, and without labels."""

    group: Group
    which: str
    runs: tuple[str, ...]
    names: tuple[str, ...]
    answers: np.ndarray
    right: np.ndarray | None
    per_point: PerPoint | None  # None: classes without labels
    whole: Whole | None  # None: without labels
    agreement: Agreement | None  # None: numbers

    @property
    def n(self) -> int:
        return len(self.runs)

    @property
    def m(self) -> int:
        return self.answers.shape[1]

    @property
    def missing(self) -> str | None:
        """Why there is nothing to say."""
        found = self.per_point or self.agreement
        assert found
        return found.reason

    @property
    def is_part(self) -> bool:
        """Whether there is another view of all runs of the group."""
        return self.which != ALL

    @property
    def lead(self) -> str:
        """What the numbers are of, in words."""
        return f"{self.group.arm}, {self.which} (n = {self.n})"

    @property
    def unstable(self) -> np.ndarray:
        """How much the runs differ on each example: a variance, or for classes without labels `disagreements`."""
        if self.right is not None:
            return variances(self.right)
        return disagreements(self.answers) if self.group.classes else variances(self.answers)

    @property
    def agreed(self) -> np.ndarray:
        """The share of runs that give each example's most frequent answer."""
        return answer_counts(self.answers, len(self.group.classes)).max(axis=1) / self.n


def views_of(group: Group) -> tuple[View, ...]:
    """Returns the group's runs, and if some of them failed the others alone."""
    fine = [i for i, failed in enumerate(group.failed) if failed is False]
    failed = any(failed is True for failed in group.failed)
    return (_view(group, ALL, list(range(len(group.runs)))), *([_view(group, FINE, fine)] if failed else []))


def _view(group: Group, which: str, chosen: list[int]) -> View:
    answers, labels = group.answers[chosen], group.examples.labels
    right = answers == labels if group.classes and labels is not None else None
    errors = right if group.classes else None if labels is None else np.square(answers - labels)
    spread = right if group.classes else answers
    return View(
        group,
        which,
        tuple(group.runs[i] for i in chosen),
        tuple(group.names[i] for i in chosen),
        answers,
        right,
        None if spread is None else per_point(spread, _rng()),
        None if errors is None else as_a_whole(errors, _rng()),
        agreement(answers) if group.classes else None,
    )


def _rng() -> np.random.Generator:
    """Returns a Generator anew, so that no number depends on which others were made before it."""
    return np.random.default_rng(BOOTSTRAP_SEED)


def failures(group: Group) -> str:
    """Returns which runs failed and what they answer, in a sentence without its end."""
    n = len(group.runs)
    if not n or None in group.failed:
        return ""
    if not any(group.failed):
        return f"{group.arm}: none of {n} runs failed" if n > 1 else f"{group.arm}: its one run did not fail"
    who = ", ".join(
        f"{name}{_habit(group, answers)}"
        for name, answers, failed in zip(group.names, group.answers, group.failed, strict=True)
        if failed
    )
    return f"{group.arm}: {sum(map(bool, group.failed))} of {n} run{'s' if n > 1 else ''} failed: {who}"


def _habit(group: Group, answers: np.ndarray) -> str:
    """Returns in words the answer that a run gives nearly everywhere, if it gives one."""
    if not group.classes:
        return " with NaN" if np.isnan(answers).any() else ""
    answer, counts = np.unique(answers, return_counts=True)
    share, most = counts.max() / len(answers), int(answer[counts.argmax()])
    what = "no answer" if most == NO_ANSWER else group.classes[most]
    return f" always {what}" if share == 1 else f" {what} in {int(1000 * share) / 10:.1f} %" if share >= 0.9 else ""


def sentences(view: View) -> Iterator[str]:
    """Yields what the numbers of a view mean, in plain words."""
    if view.missing:
        yield f"{view.lead}: missing: {view.missing}"
        return
    if view.whole is not None:
        yield f"{view.lead}: {_as_a_whole(view, view.whole)}"
    if view.right is not None and (view.answers == NO_ANSWER).any():
        who = int((view.answers == NO_ANSWER).any(axis=1).sum())
        yield f"{view.lead}: {who} with outputs that are not finite; they count as a wrong answer that is no class"


def _as_a_whole(view: View, whole: Whole) -> str:
    what, each = (
        ("accuracy", "S_per-point")
        if view.group.classes
        else ("mean squared error", "the mean variance of a squared error")
    )
    if whole.reason:
        return f"nothing of the {what}: {whole.reason}"
    if whole.ratio is None:
        same = "are right on the same examples" if view.group.classes else "have the same error on each example"
        return f"all runs {same}, so that S_ours and its parts are 0"
    said = f"S_ours is {whole.ratio:.3g} times {each} / {view.m:,}, what independent errors on the examples would give"
    like = f"the {what} varies as if measured on {view.m / whole.ratio:.3g} independent examples"
    if whole.test.p is None:
        tested = "" if not view.group.classes else f" ({whole.test.test}: no test, {whole.test.reason})"
        good = "as far as that is above 1, runs are good or bad as a whole" if not view.group.classes else like
        return f"{said}: {good}{tested}"
    tested = f"({whole.test.test}: Q = {whole.test.statistic:.4g}, {view.n - 1} df, {shown_p(whole.test.p)})"
    if whole.test.p < ALPHA:
        return f"{said}: runs are good or bad as a whole; {like} {tested}"
    return f"{said}: no sign of runs that are good or bad as a whole; one is right here and another there {tested}"
