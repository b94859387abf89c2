"""Joining a cluster from a process that was itself submitted as a Ray job."""

import json
import os

import pytest
import ray
from ray.cluster_utils import Cluster

from speechmill.pipeline.run.job import RaySettings
from speechmill.pipeline.run.ray_cluster import connected


def test_variables_of_the_job_reach_the_workers_unless_the_configuration_sets_them(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "3", "TEAM": "speech"}
    job = {"runtime_env": {"env_vars": given}, "metadata": {}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    with connected(RaySettings(address=cluster.address, env={"OMP_NUM_THREADS": "1"})):
        found = ray.get(ray.remote(_environment).remote())
    assert found.items() >= (given | {"OMP_NUM_THREADS": "1"}).items()
    assert "MALLOC_TOP_PAD_" in found
    assert "RAY_OVERRIDE_JOB_RUNTIME_ENV" not in os.environ


def _environment() -> dict[str, str]:
    return dict(os.environ)
