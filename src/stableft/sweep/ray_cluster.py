"""Find a Ray cluster, connect this process to it, and open its executor."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stableft.config.command_config import CommandConfig
from stableft.config.sweep_file import Sweep
from stableft.errors import UserError, clip

if TYPE_CHECKING:
    from stableft.sweep.ray_workers import RayExecutor

ANSWER_SECONDS = 5.0  # for the cluster's address


def find_ray_cluster(given: str | None, devices: str) -> str:
    """Return the address of a cluster that answers. "": this process is connected to one already.

    Ray itself would try an address for two minutes, and then exit.

    Raises:
        UserError: Ray is not installed, no cluster answers, or an option does not fit.
    """
    option = f"--ray-address {given}" if given else "--executor ray"
    if devices not in ("auto", "cpu"):
        raise UserError(f"--devices {devices!r}: with --executor ray, auto or cpu; Ray assigns the GPUs")
    try:
        import ray  # pyright: ignore[reportMissingImports] - an extra
        from ray._private.services import canonicalize_bootstrap_address  # pyright: ignore[reportMissingImports]
        from ray._raylet import GcsClient  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
        from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{option}: Ray is not installed here; pip install 'stableft[ray]' installs it") from None
    if ray.is_initialized():  # by the script or notebook that calls
        return ""
    if given and given.startswith("ray://"):
        raise UserError(f"{option}: must be HOST:PORT; run the command on a machine of the cluster, not as its client")
    try:
        # What `ray.init` resolves "auto" with, and below, what `ray health-check` makes.
        address = canonicalize_bootstrap_address(given or os.environ.get("RAY_ADDRESS") or "auto")
    except ConnectionError:
        address = None
    except ValueError:
        raise UserError(f"{option}: must be HOST:PORT, such as 10.0.0.1:6379") from None
    if address is None:
        raise UserError(
            f"{option}: no Ray cluster runs on this machine; start one with `ray start --head`, or name its address "
            "with --ray-address HOST:PORT"
        )
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        GcsClient(address=address)  # something else that answers takes 40 seconds
    except (OSError, ValueError, OverflowError, RayError):
        raise UserError(f"{option}: no Ray cluster answers at {address}") from None
    return address


@contextlib.contextmanager
def ray_executor(address: str, devices: str, jobs: int, results: Path, sweep: Sweep) -> "Iterator[RayExecutor]":
    """Connect this process to the cluster at an address that `find_ray_cluster` returned, and yield its executor.

    Raises:
        UserError: The cluster cannot be joined, or its nodes cannot train the sweep.
    """
    import ray  # pyright: ignore[reportMissingImports]
    from ray._private import worker as ray_worker  # pyright: ignore[reportMissingImports]

    from stableft.sweep.ray_workers import RayExecutor

    show_logs = ray_worker.print_to_stdstream
    if address:
        before = signal.getsignal(signal.SIGTERM)
        ray_worker.print_to_stdstream = lambda *_, **__: None  # the raylets' logs, by the page, when a node is lost
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (Exception, SystemExit) as error:
            raise UserError(f"--ray-address {address}: this machine cannot join the cluster: {clip(error)}") from None
        finally:
            if threading.current_thread() is threading.main_thread():  # Ray sets its own handler, which exits
                signal.signal(signal.SIGTERM, before)
    try:
        has_commands = any(isinstance(run.config, CommandConfig) for run in sweep.runs)
        with contextlib.closing(RayExecutor(devices, jobs, results, sweep.sources, has_commands)) as executor:
            print(executor.check_nodes(), flush=True)
            yield executor
    finally:
        if address:
            ray.shutdown()
            ray_worker.print_to_stdstream = show_logs
