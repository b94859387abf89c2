"""Pairs of shards, by the command line and Ray workers."""

import os
import subprocess

import pytest

from speechmill.jobs.config import load_config
from speechmill.jobs.schemas import EnhanceConfig
from speechmill.pipeline.errors import InputError
from tests.conftest import REPOSITORY
from tests.corpus import write_corpus
from tests.jobs.conftest import command, invoke, wait_until

DEMO = REPOSITORY / "configs" / "enhance" / "demo.yaml"


@pytest.fixture
def enhance_config(tmp_path, cluster):
    path = tmp_path / "enhance.yaml"
    path.write_text(
        f"shards: ['{tmp_path}/in/']\noutput: '{tmp_path}/out'\n"
        "enhancer: {name: spectral-gating}\ngate: {snr_db: 60}\n"
        f"ray: {{address: '{cluster.address}'}}\n"
    )
    return path


def committed(output):
    """The files that readers see: a killed write leaves one whose name begins with a dot."""
    folders = ("shards", "reports", "rejects")
    paths = [path for folder in folders for path in output.glob(f"{folder}/[!.]*")]
    return {path.relative_to(output): path.read_bytes() for path in paths}


def test_a_killed_run_resumes_to_the_bytes_of_an_uninterrupted_one(tmp_path, enhance_config):
    tars = write_corpus(tmp_path / "in", num_shards=6, clips_per_shard=3)
    tars[0].write_bytes(tars[0].read_bytes()[:-1200] + bytes(1200))  # a clip is damaged
    process = subprocess.Popen(command("enhance", str(enhance_config)), env=os.environ)
    wait_until(lambda: len(committed(tmp_path / "out")) >= 2, process)
    process.kill()
    process.wait()
    here = "workers.count=0"
    done = invoke("enhance", enhance_config, here)
    assert done.exit_code == 0, done.output
    calm = invoke("enhance", enhance_config, here, f"output={tmp_path}/calm")
    assert calm.exit_code == 0, calm.output
    assert committed(tmp_path / "out") == committed(tmp_path / "calm")
    assert len(list((tmp_path / "calm" / "shards").glob("*.tar"))) == 6
    again = invoke("enhance", enhance_config)
    assert (again.exit_code, "nothing left to do" in again.stdout) == (0, True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("enhancer.nme=x", r"unknown key enhancer\.nme; did you mean enhancer\.name"),
        ("enhancer.name=gtcrn", r"enhancer\.model is not set"),
        ("gate.dnsmos_ovr=3", r"gate\.dnsmos is not set"),
    ],
)
def test_a_mistake_is_named_with_its_cure(override, message):
    with pytest.raises(InputError, match=message):
        load_config(EnhanceConfig, DEMO, [override])
