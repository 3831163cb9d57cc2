"""A Ray cluster on this machine in processes of its own: a head and nodes of one CPU, of which one can be killed."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HAS_RAY = importlib.util.find_spec("ray") is not None  # to import it takes seconds
SMALL = {"object_store_memory": 80 << 20}
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}


class RayNodes:
    """A running cluster."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process
        self.address = self._read()

    def _read(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline().strip()
        assert line, "the cluster has not started"
        return line

    def kill_node(self) -> None:
        """Kills the first node, as a loss of power would."""
        self._order("kill")

    def add_node(self, version: str) -> None:
        """Adds a node that seems to have another version of stableft."""
        self._order(f"add {version}")

    def _order(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        assert self._read() == "done"


@contextlib.contextmanager
def ray_nodes(count: int, hidden: Path | None = None, host: str | None = None) -> Iterator[RayNodes]:
    """Starts a cluster of so many nodes, which see an empty folder in place of `hidden`, on a host of another name."""
    command = [sys.executable, "-m", "support.ray_nodes", str(count)]
    if hidden or host:
        inside = 'mount -t tmpfs tmpfs "$0" && exec "$@"' if hidden else 'hostname "$0" && exec "$@"'
        user = [] if os.geteuid() == 0 else ["-r"]
        command = ["unshare", "-m" if hidden else "-u", *user, "sh", "-c", inside, str(hidden or host), *command]
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:  # sockets' paths
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "RAY_TMPDIR": folder},
        )
        try:
            yield RayNodes(process)
        finally:
            with contextlib.suppress(OSError):
                process.communicate("quit\n", timeout=60)
            process.kill()


def main() -> None:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK, **SMALL}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [cluster.add_node(num_cpus=1, **SMALL) for _ in range(int(sys.argv[1]))]
        print(cluster.address, flush=True)
        for line in sys.stdin:
            order, _, version = line.strip().partition(" ")
            if order == "quit":
                break
            if order == "kill":
                cluster.remove_node(nodes.pop(0), allow_graceful=False)
            else:
                folder = Path(os.environ["RAY_TMPDIR"], "other")
                metadata = folder / f"stableft-{version}.dist-info" / "METADATA"
                metadata.parent.mkdir(parents=True)
                metadata.write_text(f"Metadata-Version: 2.1\nName: stableft\nVersion: {version}\n")
                before = os.environ.get("PYTHONPATH", "")
                os.environ["PYTHONPATH"] = f"{folder}:{before}"
                nodes.append(cluster.add_node(num_cpus=1, **SMALL))
                os.environ["PYTHONPATH"] = before
            print("done", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
