"""Is my fine-tuning stable, and does this recipe make it more stable?

From Python, `run_sweep`, `load_records`, `load_history`, `make_report`, `compare` and `failure_rate` do what the
command line does; the statistics take plain arrays. Nothing is imported before it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stableft.errors import UserError
    from stableft.python_api import (
        FailureRate,
        compare,
        failure_rate,
        load_history,
        load_records,
        make_report,
        plan_sweep,
        run_sweep,
    )
    from stableft.stats import (
        bootstrap_interval,
        boschloo,
        expected_max,
        holm,
        iqm,
        levene,
        newcombe_interval,
        permutation_test,
        probability_of_improvement,
        sd_ratio,
        summarize,
        t_test,
        welch_interval,
        wilson_interval,
    )

    __version__: str

__all__ = [
    "FailureRate",
    "UserError",
    "bootstrap_interval",
    "boschloo",
    "compare",
    "expected_max",
    "failure_rate",
    "holm",
    "iqm",
    "levene",
    "load_history",
    "load_records",
    "make_report",
    "newcombe_interval",
    "permutation_test",
    "plan_sweep",
    "probability_of_improvement",
    "run_sweep",
    "sd_ratio",
    "summarize",
    "t_test",
    "welch_interval",
    "wilson_interval",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        from stableft.version import find_version

        return find_version()
    if name in __all__:
        from importlib import import_module

        for module in ("stableft.errors", "stableft.stats", "stableft.python_api"):
            if hasattr(import_module(module), name):
                return getattr(import_module(module), name)
    raise AttributeError(f"module 'stableft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
