"""A clock that is wrong, or that is set while a run goes on, as by ntpd after a boot."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from speechmill.jobs.report.logs import read_runs
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.storage import Storage
from tests.conftest import FRAGILE, FRAGILE_PYTHONPATH
from tests.corpus import write_corpus
from tests.jobs.conftest import command, contents, invoke, wait_until

HERE = ("workers.count=0", "workers.num_gpus=0", "codec.name=fragile")
SOURCE = Path(__file__).parents[1] / "wrong_clock.c"
HOUR = 3600


class Clock:
    """The wall clock of processes with this environment, in seconds ahead of the real one."""

    def __init__(self, folder):
        """Its library takes the place of libc's clock; libfaketime 0.9.10 breaks `time.sleep`."""
        library, self.offset = folder / "wrong_clock.so", folder / "offset"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "CLOCK_OFFSET_FILE": str(self.offset),
            "PYTHONPATH": FRAGILE_PYTHONPATH,
        }

    def set(self, seconds: int) -> None:
        new = self.offset.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self.offset)


@pytest.fixture
def clock(tmp_path):
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("setting the clock of a process needs Linux and a C compiler")
    return Clock(tmp_path)


@pytest.fixture
def calm(tmp_path, monkeypatch):
    """The arguments of a run, and what it leaves on a machine whose clock is right."""
    monkeypatch.syspath_prepend(FRAGILE)
    write_corpus(tmp_path / "in", num_shards=4, clips_per_shard=2, seconds=0.5)
    (tmp_path / "run.yaml").write_text(f"shards: [{tmp_path}/in]\noutput: {tmp_path}/out\n")
    arguments = ("tokenize", tmp_path / "run.yaml", *HERE)
    assert invoke(*arguments, f"output={tmp_path}/calm").exit_code == 0
    return arguments, contents(Storage(), f"{tmp_path}/calm")


def test_a_run_that_began_in_the_future_is_resumed_in_the_past(tmp_path, clock, calm, speechmill):
    arguments, files = calm
    one = f"shards=[{tmp_path}/in/shard-0000.tar]"
    clock.set(400 * 24 * HOUR)
    assert speechmill(*arguments, one, environment=clock.environment).returncode == 0
    [killed] = (tmp_path / "out" / "runs").iterdir()
    (killed / "summary.json").unlink()
    assert invoke(*arguments).exit_code == 0
    assert contents(Storage(), f"{tmp_path}/out") == files
    _, last = sorted((tmp_path / "out" / "runs").iterdir())
    assert last.name > killed.name
    status = json.loads(invoke("status", tmp_path / "out", "--json").stdout)
    assert (status["last_run"]["run"], status["last_run"]["status"]) == (last.name, "done")
    assert invoke("report", tmp_path / "out").exit_code == 0
    compacted = invoke("compact", tmp_path / "out", tmp_path / "compacted")
    assert (compacted.exit_code, "did not end" in compacted.output) == (0, False)


def test_a_clock_that_is_set_during_a_run_changes_neither_bytes_nor_times(tmp_path, clock, calm):
    arguments, files = calm
    slow = command(*map(str, arguments), "codec.options.seconds=1.5")
    process = subprocess.Popen(slow, env=os.environ | clock.environment)
    for number, seconds in enumerate((30 * HOUR, -30 * HOUR), 1):
        wait_until(lambda n=number: len(list((tmp_path / "out/tokens").glob("s*"))) >= n, process)
        clock.set(seconds)
    assert process.wait() == 0
    assert contents(Storage(), f"{tmp_path}/out") == files
    faults: list[str] = []
    [run] = read_runs(TokenDataset(f"{tmp_path}/out", Storage()), faults)
    [events] = (tmp_path / "out" / "runs").glob("*/events.jsonl")
    times = [json.loads(line)["time"] for line in events.read_text().splitlines()]
    assert times != sorted(times)  # the clock was set back
    assert (len(run.commits), run.seconds < 300, faults) == (4, True, [])


def test_a_store_that_refuses_a_wrong_clock_is_reported_with_the_clock(
    rgw, bucket, clock, speechmill
):
    clock.set(2 * HOUR)
    found = speechmill("status", f"{bucket}/out", environment=rgw.environment | clock.environment)
    assert found.returncode == 2
    assert "clock of this machine is 120 minutes ahead of the store's: set it" in found.stderr
