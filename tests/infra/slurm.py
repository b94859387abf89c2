"""A real Slurm on the loopback: a controller and two nodes, for the tests of infra/slurm."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.conftest import FRAGILE_PYTHONPATH, REPOSITORY

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
SCRIPTS = REPOSITORY / "infra" / "slurm"
BETWEEN_LOOKS = 0.5  # s; each look at a job is a process, which takes CPU time from the job
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
# Slurm waits for cred_expire before it starts a job again. Processes are found by their parents.
_CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
FirstJobId={first_job}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=30
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.2 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.3 Port={ports[2]} CPUs=2 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


class Slurm:
    """Its commands, run as a user would run them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "SPEECHMILL_SLURM": str(SCRIPTS),
            "SPEECHMILL_START_SECONDS": "900",  # beside other tests
            "PYTHONPATH": FRAGILE_PYTHONPATH,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def sbatch(self, script: str, *arguments: object, folder: Path, options: tuple = ()) -> str:
        """Submit a script on two small nodes without GPUs; returns the number of the job."""
        small = ("--nodes=2", "--gpus-per-node=0", "--cpus-per-task=1", "--mem=1200", "--time=30")
        command = ("sbatch", "--parsable", *small, *options, SCRIPTS / script, *arguments)
        return self.run(*command, folder=folder).strip()

    def run(self, *command: object, folder: Path | None = None) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            env=self._environment,
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def state(self, job: str) -> dict[str, str]:
        """What Slurm says about a job, such as JobState, ExitCode and Restarts."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in shown if "=" in word)

    def wait_for(self, job: str, *states: str, restarts: int = 0) -> dict[str, str]:
        while True:  # only pytest's timeout limits it
            found = self.state(job)
            if found["JobState"] in states and int(found["Restarts"]) >= restarts:
                return found
            assert found["JobState"] not in _ENDED, found
            time.sleep(BETWEEN_LOOKS)


@contextmanager
def running_slurm(folder: Path) -> Iterator[Slurm]:
    """Start the daemons in a short path: those of sockets are limited."""
    (folder / "state").mkdir()
    ports = _free_ports(3)
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(
        _CONF.format(folder=folder, ports=ports, host=host, first_job=os.getpid())
    )
    slurm = Slurm(folder)
    try:
        _start_munge(folder)
        slurm.run("slurmctld")
        for node in ("n1", "n2"):
            slurm.run("slurmd", "-N", node)
        while slurm.run("sinfo", "--noheader", "--format=%T %D").split() != ["idle", "2"]:
            time.sleep(0.1)
        yield slurm
    finally:
        for name in ("n1", "n2", "slurmctld", "munge"):
            _end(folder / f"{name}.pid")


def is_installed() -> bool:
    return os.geteuid() == 0 and all(shutil.which(name) for name in PROGRAMS)


def processes_of(job: str) -> list[psutil.Process]:
    """Every process of a job of Slurm, wherever it went."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURM_JOB_ID") == job and process.status() != "zombie":
                found.append(process)
    return found


def _start_munge(folder: Path) -> None:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    folder.chmod(0o755)  # munged refuses another one
    options = {"key-file": key, "socket": folder / "munge.sock", "pid-file": folder / "munge.pid"}
    options |= {"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}
    subprocess.run(["munged", *(f"--{k}={v}" for k, v in options.items())], check=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _end(pid_file: Path) -> None:
    with suppress(OSError, psutil.Error):
        process = psutil.Process(int(pid_file.read_text()))
        process.send_signal(signal.SIGTERM)
        process.wait(20)
