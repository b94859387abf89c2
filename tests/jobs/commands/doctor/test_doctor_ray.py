"""`speechmill doctor` and the cluster of a run: its token, its nodes and its workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from speechmill.pipeline.run.ray_local import load_authentication
from tests.authenticated_cluster import AuthenticatedCluster, authenticated_cluster
from tests.jobs.commands.doctor.examined import (
    assert_both_fail,
    assert_both_succeed,
    lines,
    tokenize_config,
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthenticatedCluster]:
    """A cluster that asks for a token."""
    with authenticated_cluster({}, tmp_path_factory.mktemp("none")) as cluster:
        yield cluster


def on_cluster(folder: Path, address: str, **workers: object) -> Path:
    return tokenize_config(folder, workers={"num_gpus": 0, **workers}, ray={"address": address})


@pytest.mark.parametrize("token", ["", "f" * 64], ids=["missing", "wrong"])
def test_a_token_that_the_cluster_refuses_is_one_line(tmp_path, guarded, monkeypatch, token):
    if token:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    load_authentication()
    try:
        path = on_cluster(tmp_path, guarded.address)
        assert_both_fail(path, "ray", "the token is missing or wrong; set RAY_AUTH_MODE=token")
    finally:
        monkeypatch.undo()
        load_authentication()


def test_the_right_token_is_accepted(tmp_path, guarded, speechmill):
    path = on_cluster(tmp_path, guarded.address)
    token = guarded.environment["RAY_AUTH_TOKEN_PATH"]
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token}
    done = speechmill("doctor", path, "--seconds", 120, environment=environment, timeout=200)
    assert done.returncode == 0, done.stdout
    assert f"2 nodes with 0 GPUs and 2 CPUs, token accepted, at {guarded.address}" in done.stdout
    assert Path(token).read_text() not in done.stdout + done.stderr


def test_nothing_that_listens_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr("speechmill.pipeline.run.ray_address._CONNECT_SECONDS", 0.5)
    said = "no Ray cluster answers at 127.0.0.1:9"
    found = assert_both_fail(on_cluster(tmp_path, "127.0.0.1:9"), "ray", said)
    assert "speed: needs ray" in lines(found, "skipped")


def test_a_cluster_without_a_token_is_a_warning_and_runs(tmp_path, cluster):
    found = assert_both_succeed(on_cluster(tmp_path, cluster.address))
    assert any(
        line.startswith("ray: the cluster asks for no token") for line in lines(found, "warning")
    )


def test_a_cluster_without_gpus_is_a_fault_of_a_run_that_wants_them(tmp_path, cluster):
    path = on_cluster(tmp_path, cluster.address, num_gpus=1)
    assert_both_fail(path, "ray", ("has 0 GPUs, a worker wants 1", "workers.num_gpus=0"))


def test_a_decode_stream_that_fits_on_no_node_is_a_fault(tmp_path):
    workers = {"num_gpus": 0, "decode_cpus": 3}
    path = tokenize_config(tmp_path, workers=workers, ray={"num_cpus": 2})
    assert_both_fail(path, "ray", "a decode stream wants 3 CPUs, and no node of the cluster has")
