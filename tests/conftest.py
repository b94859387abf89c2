"""Fixtures for the whole suite."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from ray.cluster_utils import Cluster

from speechmill.codecs import Codec, load_codec
from speechmill.pipeline.storage import Storage

pytest_plugins = ["tests.s3_server"]

REPOSITORY = Path(__file__).parent.parent
FRAGILE = REPOSITORY / "tests" / "fragile_codec"  # a codec that workers find on their path
FRAGILE_PYTHONPATH = f"{FRAGILE}{os.pathsep}{REPOSITORY}"
MODELS = REPOSITORY.parent / "shared" / "models"
REAL_SPEECH = REPOSITORY.parent / "shared" / "data" / "clean"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let this process end without the destructors of C++.

    Each `ray.init` after the first leaves a thread that exports metrics for ever (Ray 2.60). It
    logs when it cannot reach its node. If the logger is destroyed by then, the process ends with a
    segmentation fault, although all tests passed.
    """
    atexit.register(_end, session)


def _end(session: pytest.Session) -> None:
    shutil.rmtree(os.environ["SPEECHMILL_CACHE"], ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(session.exitstatus)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("cluster")


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture(scope="session")
def null_codec() -> Codec:
    return load_codec("null")


@pytest.fixture(scope="session")
def real_speech() -> Path:
    """A folder of real recordings, which is no part of the repository."""
    if not REAL_SPEECH.is_dir():
        pytest.skip("no real speech at ../shared/data/clean beside the checkout")
    return REAL_SPEECH


@pytest.fixture(scope="session")
def models() -> Path:
    """A folder of published models, which is no part of the repository."""
    if not MODELS.is_dir():
        pytest.skip("no models at ../shared/models beside the checkout")
    return MODELS


@pytest.fixture(scope="session")
def dnsmos_model(models: Path) -> str:
    return str(models / "dnsmos" / "sig_bak_ovr.onnx")


# A busy machine may pause in the middle of an example.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")
# What is kept between runs must not decide a test.
os.environ["SPEECHMILL_CACHE"] = tempfile.mkdtemp(prefix="speechmill-cache-")
# A local `ray.init` would turn on token authentication for the rest of this process, and the
# standing cluster has none.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# By default Ray's workers get next to no time while other tests keep all CPUs busy.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)
os.environ["RAY_raylet_start_wait_time_s"] = "300"  # noqa: SIM112 (by default 30, for a node)
# Workers import functions of the tests; the working directory is not on their path.
os.environ["PYTHONPATH"] = str(REPOSITORY)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    arguments = {
        "num_cpus": 2,
        "object_store_memory": 2**30,
        "include_dashboard": False,
        "include_log_monitor": False,  # no test needs its output
        # Loopback, but not 127.0.0.1: that one `ray.init` replaces by the address of the network.
        "node_ip_address": "127.0.0.2",
        "_system_config": {
            # By default 10 s and 3 s (five of them until a node is given up), long for a test.
            "metrics_report_interval_ms": 1000,
            "health_check_period_ms": 500,
            # They would serve no task, because each run has an environment of its own.
            "prestart_worker_first_driver": False,
        },
    }
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    yield cluster
    cluster.shutdown()
