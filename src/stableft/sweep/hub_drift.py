"""Keep the runs of a sweep to one commit of each hub model: `name@main` may name other weights tomorrow."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from stableft.config.planned_run import PlannedRun
from stableft.config.run_config import ModelConfig, RunConfig
from stableft.data.sources import find_model_commit
from stableft.errors import UserError
from stableft.records.run_record import RunRecord

ModelIdentity = tuple[str | None, ...]  # `ModelConfig.identity`


def resolve_hub_commits(runs: Iterable[PlannedRun]) -> dict[ModelIdentity, str]:
    """Return the commit that each hub model of the runs names now.

    Raises:
        UserError: A model is neither on the hub nor in its cache.
    """
    models = {identity: model for identity, model in _models_of(runs).items() if not model.sha256}
    return {identity: find_model_commit(model.name, model.revision) for identity, model in models.items()}


def _models_of(runs: Iterable[PlannedRun]) -> dict[ModelIdentity, ModelConfig]:
    configs = (run.config for run in runs)
    return {config.model.identity: config.model for config in configs if isinstance(config, RunConfig)}


def check_hub_commits(
    to_do: Iterable[PlannedRun], records: Iterable[RunRecord], commits: Mapping[ModelIdentity, str], results: Path
) -> None:
    """Check that runs about to be trained use the commits of the hub models that the recorded runs were trained from.

    Raises:
        UserError: A model's commit is not that of a record; the message gives both.
    """
    trained = Counter(
        (record.run_config.model.identity, record.environment.model_commit)
        for record in records
        if record.environment and record.environment.model_commit
    )
    needed = _models_of(to_do)
    for (identity, commit), n in trained.items():
        if identity in needed and identity in commits and commits[identity] != commit:
            name, now = needed[identity].name, commits[identity]
            raise UserError(
                f"this sweep has {n} run{'s' * (n > 1)} in {results} trained from commit {commit} of "
                f"{name}@{needed[identity].revision}, which now names commit {now}: pin `model: {name}@{commit}` (or "
                f"@{now}), so that all runs are trained from one commit, or give another --results folder"
            )
