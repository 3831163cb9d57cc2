"""A Slurm cluster of this one machine, started by hand in a folder of its own: without systemd, as any user."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")

CONFIG = """
ClusterName=stableft
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1,requeue_delay=0
SlurmdTimeout=10
KillWait=60
MinJobAge=300
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 Gres=gpu:2 State=UNKNOWN
NodeName=elsewhere NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 State=DOWN
PartitionName=main Nodes={host} Default=YES MaxTime=1:00:00 State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=1:00:00 State=UP PriorityTier=2
PartitionName=short Nodes={host} DefaultTime=3 MaxTime=10 State=UP
PartitionName=far Nodes=elsewhere MaxTime=1:00:00 State=UP
"""


class SlurmNode:
    """Controller and node, which run until `stop`. Its programs are called with `environment`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        self.folder.chmod(0o755)
        for name in ("state", "spool", "munge"):
            (self.folder / name).mkdir(mode=0o755)
        sockets = [socket.socket() for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        host = socket.gethostname().partition(".")[0]
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(host=host, ports=ports, folder=self.folder, user=getpass.getuser())
        )
        for number in range(2):  # of GPUs, each of which Slurm knows as a file
            (self.folder / f"gpu{number}").touch()
        (self.folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={self.folder}/gpu[0-1]\n")
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        self.start_daemon(
            "munged",
            *("--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket"),
            *(f"--{name}={self.folder}/munge/{name}" for name in ("pid-file", "seed-file", "log-file")),
        )
        self.wait_until(lambda: (self.folder / "munge.socket").exists(), 10)
        self.start_daemon("slurmctld", "-D")
        self.start_daemon("slurmd", "-D")
        self.wait_until(lambda: "idle" in self.call("sinfo", "-h", "-o", "%T"), 60)

    def start_daemon(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [name, *arguments], env=self.environment, stdout=out, stderr=out, start_new_session=True
            )

    def call(self, *command: str) -> str:
        """Run a program of Slurm and return what it prints, nothing if it fails."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout.strip()

    def states(self, job: str) -> list[str]:
        """Return the states of a job's tasks that Slurm still knows."""
        return self.call("squeue", "-h", "-r", "-t", "all", "-o", "%T", "-j", job).split()

    def wait_until(self, condition, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            logs = "\n".join((self.folder / f"{name}.out").read_text()[-2000:] for name in dead)
            assert not dead, f"{dead} ended: {logs}"
            assert time.monotonic() < end, f"not within {seconds} s\n{self.call('squeue', '-a')}"
            time.sleep(0.2)

    def stop(self) -> None:
        self.call("scancel", "--full", "-s", "KILL", "-u", getpass.getuser())
        self.call("scancel", "-u", getpass.getuser())
        end = time.monotonic() + 20
        while self.call("squeue", "-h") and time.monotonic() < end:  # daemons that end first would leave processes
            time.sleep(0.2)
        for daemon in reversed(self.daemons.values()):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def why_no_slurm() -> str | None:
    """Return why no cluster can be started here, or None."""
    missing = [name for name in DAEMONS if not shutil.which(name)]
    return f"needs {missing[0]} of slurm-wlm and munge, which scripts/test-cluster installs" if missing else None


def main() -> None:
    """Run a command, or a shell, that can submit to a cluster of this machine, which starts and stops with it."""
    if reason := why_no_slurm():
        sys.exit(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        node = SlurmNode(Path(folder))
        try:
            node.start()
            code = subprocess.run(sys.argv[1:] or [os.environ.get("SHELL", "bash")], env=node.environment).returncode
        finally:
            node.stop()
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
