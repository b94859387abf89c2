"""`speechmill doctor` and the cluster of a run: its nodes and its workers.

tests/infra/test_ray_job.py has those of a cluster that asks for a token.
"""

from tests.jobs.commands.doctor.examined import (
    assert_both_fail,
    assert_both_succeed,
    lines,
    on_cluster,
    tokenize_config,
)


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
