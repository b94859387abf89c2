"""The scripts of infra/slurm, submitted to a real Slurm of two nodes on this machine."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from speechmill.jobs.training.checkpoints import Checkpoints
from speechmill.pipeline.storage import Storage
from tests.conftest import FRAGILE
from tests.corpus import write_corpus
from tests.infra.slurm import (
    BETWEEN_LOOKS,
    SCRIPTS,
    Slurm,
    is_installed,
    processes_of,
    running_slurm,
)
from tests.jobs.conftest import contents, invoke
from tests.jobs.training.runs import train_yaml

ENDLESS = ("phases.vae.steps=100000", "checkpoint.every=100000", "log.every=1")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if not is_installed() and "CI" not in os.environ:
        pytest.skip("needs root, slurmctld, slurmd, slurm-client and munge")
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, running_slurm(Path(folder)) as one:
        yield one


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, the configuration of a run over them, and what a run in this process gives."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "in", num_shards=12, clips_per_shard=2, seconds=0.5)
    (folder / "run.yaml").write_text(
        "shards: [in/]\noutput: local\ncodec: {name: fragile}\nworkers: {num_gpus: 0}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(FRAGILE)
        assert invoke("tokenize", "run.yaml", "workers.count=0").exit_code == 0
    return folder


def parts(output: Path) -> int:
    return len(list((output / "tokens").glob("*.parquet")))


def log_of(job: str, folder: Path) -> str:
    [log] = folder.glob(f"*-{job}.log")
    return log.read_text()


def test_the_scripts_pass_shellcheck() -> None:
    scripts = sorted(SCRIPTS.iterdir())
    subprocess.run(["shellcheck", *map(str, scripts)], check=True)
    for script in scripts:
        assert script.suffix == ".sbatch" or os.access(script, os.X_OK)


def test_an_interrupted_task_of_an_array_resumes_to_the_bytes_of_a_local_run_and_a_wrong_one_ends(
    slurm: Slurm, corpus: Path
) -> None:
    slow = "workers.shards_in_flight=1 codec.options.seconds=0.5"  # the signal comes in between
    line = f"run.yaml output=out {slow} 'shards=[in/]'\n"
    (corpus / "corpora.txt").write_text(line)
    array = slurm.sbatch("tokenize.sbatch", "corpora.txt", folder=corpus, options=("--array=1-2",))
    ended = slurm.wait_for(f"{array}_2", "COMPLETED", "FAILED")
    assert (ended["ExitCode"], ended["Restarts"]) == ("2:0", "0")
    assert "corpora.txt has no line 2" in log_of(ended["JobId"], corpus)
    right = slurm.wait_for(f"{array}_1", "RUNNING")["JobId"]  # until then both have one number
    while not parts(corpus / "out"):
        assert slurm.state(right)["JobState"] in ("PENDING", "RUNNING"), log_of(right, corpus)
        time.sleep(BETWEEN_LOOKS)
    slurm.run("scancel", "--signal=TERM", "--batch", right)  # as `--signal=B:TERM@120` does
    ended = slurm.wait_for(right, "COMPLETED", "FAILED", restarts=1)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), log_of(right, corpus)
    assert "Ray runs on 2 of 2 nodes" in log_of(right, corpus)
    storage = Storage()
    assert contents(storage, f"{corpus}/out") == contents(storage, f"{corpus}/local")
    while processes_of(right):  # Ray gives its processes a second to end
        time.sleep(BETWEEN_LOOKS)
    assert not Path(f"/tmp/speechmill-{right}").exists()
    assert not list(corpus.glob(".ray-token-*"))


def test_a_training_run_that_slurm_interrupts_resumes_on_both_nodes_from_the_step_it_had_reached(
    slurm: Slurm, tmp_path: Path
) -> None:
    workers = "workers={num_gpus: 0, count: 2}"
    arguments = (train_yaml(tmp_path), workers, *ENDLESS)
    job = slurm.sbatch("train.sbatch", *arguments, folder=tmp_path, options=("--hold",))
    left = Path(f"/tmp/speechmill-{job}")  # by a start of the job that was killed
    left.mkdir(0o700, exist_ok=True)
    (left / "start-0").write_text("Ray runtime started.")
    slurm.run("scontrol", "release", job)
    while "  step " not in (log_of(job, tmp_path) if list(tmp_path.glob("*.log")) else ""):
        assert slurm.state(job)["JobState"] in ("PENDING", "RUNNING"), log_of(job, tmp_path)
        time.sleep(BETWEEN_LOOKS)
    slurm.run("scancel", "--signal=TERM", "--batch", job)
    slurm.wait_for(job, "PENDING", "RUNNING", restarts=1)
    slurm.run("scancel", job)
    slurm.wait_for(job, "CANCELLED")
    checkpoints = Checkpoints(f"{tmp_path}/run", Storage(), keep=3)
    [step] = checkpoints.steps()
    assert step > 0
    assert len(checkpoints.latest()["positions"]) == 2
