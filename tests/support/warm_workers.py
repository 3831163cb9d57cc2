"""Worker processes that are forks of one process that has imported torch, instead of spawned ones.

A spawned worker takes 5 seconds of a processor to import torch and transformers, a fork a few hundredths. All else is
as in a spawned one: its environment, its folder, its pipe, and nothing of what a test has changed in this process.
"""

import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess

# What workers and the process of an early report import.
IMPORTED = (
    *("matplotlib.figure", "pandas", "safetensors.torch", "scipy.stats", "sklearn.metrics", "stableft.cli.app"),
    *("stableft.cli.sweep_commands", "stableft.sweep.worker_process", "stableft.training.run"),
    *("stableft.training.setup", "torch._dynamo", "transformers.models.auto.tokenization_auto"),
    *("transformers.models.bert.modeling_bert", "transformers.models.bert.tokenization_bert"),
)


class WarmProcess(ForkServerProcess):
    """A fork of the server with the environment of its parent, as a spawned process has it."""

    def start(self) -> None:
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        super().run()


class WarmContext(ForkServerContext):
    Process = WarmProcess


class WarmWorkers:
    """Stands for `multiprocessing` in the modules that start processes, which ask it for a context alone."""

    def __init__(self) -> None:
        forkserver.set_forkserver_preload(list(IMPORTED))
        forkserver.ensure_running()

    def get_context(self, method: str) -> WarmContext:
        assert method == "spawn"
        return WarmContext()

    def stop(self) -> None:
        """End the server and wait for it, so that its time counts as that of the tests."""
        forkserver._forkserver._stop()
