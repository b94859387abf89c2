"""A cluster that asks for a token: runs submitted as by the RayJob, stopped pods, the doctor."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import ray
import yaml

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.run import ray_local
from speechmill.pipeline.run.job import RaySettings
from speechmill.pipeline.run.ray_address import reachable_cluster
from speechmill.pipeline.run.ray_cluster import connected
from speechmill.pipeline.storage import Storage
from tests.authenticated_cluster import AuthenticatedCluster, authenticated_cluster
from tests.conftest import FRAGILE
from tests.corpus import write_corpus
from tests.infra.kubernetes import find, groups, values_of
from tests.jobs.commands.doctor.examined import assert_both_fail, on_cluster
from tests.jobs.conftest import contents, invoke
from tests.jobs.training.runs import train_yaml
from tests.ray_processes import is_raylet

JOB, CONFIG_MAP = find("rayjob.yaml", "RayJob"), find("rayjob.yaml", "ConfigMap")
HEAD, WORKER, _ = groups(JOB)


@pytest.fixture(scope="module")
def secure() -> Iterator[AuthenticatedCluster]:
    [variables] = values_of(HEAD, "env")
    plain = {each["name"]: each["value"] for each in variables if "value" in each}
    with authenticated_cluster(plain, FRAGILE) as cluster:
        yield cluster


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    """The mounted ConfigMap, in which a user has named another corpus and another codec."""
    for name, text in CONFIG_MAP["data"].items():
        config = yaml.safe_load(text)
        config |= {"shards": [f"{tmp_path}/in"], "output": f"{tmp_path}/out"}
        config["codec"] = {"name": "fragile"}
        config["workers"] |= {"num_gpus": 0, "count": 1, "shards_in_flight": 1}
        (tmp_path / "mounted").mkdir()
        (tmp_path / "mounted" / name).write_text(yaml.safe_dump(config))
    return tmp_path / "mounted"


def submit(cluster: AuthenticatedCluster, mounted: Path, name: str) -> None:
    """Submit the entrypoint with the command line of KubeRay."""
    entrypoint = JOB["spec"]["entrypoint"].replace("/etc/speechmill", str(mounted))
    where = f"--address {cluster.dashboard}"
    command = f"ray job submit {where} --no-wait --submission-id {name} -- {entrypoint}"
    cluster.run("bash", "-ce", f"if ! ray job status {where} {name} ; then {command} ; fi")


def submit_from_laptop(cluster: AuthenticatedCluster, folder: Path, name: str) -> None:
    """Submit the folder of a configuration, with a variable that Speechmill sets too."""
    variables = '{"env_vars": {"MALLOC_ARENA_MAX": "2"}}'
    job = ["ray", "job", "submit", "--address", cluster.dashboard, "--submission-id", name]
    job += ["--runtime-env-json", variables, "--working-dir", str(folder), "--no-wait", "--"]
    slow = "codec.options.seconds=5.0"  # for each shard
    cluster.run(*job, "speechmill", "tokenize", "tokenize.yaml", slow)


def status(cluster: AuthenticatedCluster, name: str) -> str:
    """What Ray says of a job to KubeRay: running, stopped, succeeded or failed."""
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    headers = {"Authorization": f"Bearer {token}"}
    request = Request(f"{cluster.dashboard}/api/jobs/{name}", headers=headers)
    with urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["status"]).lower()


def wait_for_a_part(cluster: AuthenticatedCluster, name: str, parts: Path) -> None:
    """Wait for the first part of a dataset, or until the job that should write it has ended."""
    while not list(parts.glob("*.parquet")):
        if status(cluster, name) not in ("pending", "running"):
            pytest.fail(logs(cluster, name))
        time.sleep(0.5)


def logs(cluster: AuthenticatedCluster, name: str) -> str:
    """Wait for a job to end and return its output."""
    return cluster.run("ray", "job", "logs", "--address", cluster.dashboard, "--follow", name)


def pre_stop(group: dict[str, Any]) -> list[str]:
    [container] = group["template"]["spec"]["containers"]
    command: list[str] = container["lifecycle"]["preStop"]["exec"]["command"]
    return command


def test_a_job_that_is_stopped_and_submitted_again_writes_the_bytes_of_a_run_without_ray(
    secure, configured, tmp_path, monkeypatch
):
    write_corpus(tmp_path / "in", num_shards=12, clips_per_shard=2, seconds=1.0)
    parts = tmp_path / "out" / "tokens"
    submit_from_laptop(secure, configured, "first")
    wait_for_a_part(secure, "first", parts)
    secure.run(*pre_stop(HEAD))
    assert status(secure, "first") == "stopped"
    [run] = (tmp_path / "out" / "runs").iterdir()
    assert '"status": "interrupted"' in (run / "summary.json").read_text()
    assert 0 < len(list(parts.glob("*.parquet"))) < 12
    submit(secure, configured, "second")
    said = logs(secure, "second")
    assert status(secure, "second") == "succeeded", said
    monkeypatch.syspath_prepend(FRAGILE)
    here = [f"output={tmp_path}/here", "workers.count=0"]
    assert invoke("tokenize", configured / "tokenize.yaml", *here).exit_code == 0
    local, store = contents(Storage(), f"{tmp_path}/here"), Storage()
    assert contents(store, f"{tmp_path}/out") == local
    assert len(local) == 12


@pytest.fixture
def token(monkeypatch, tmp_path) -> Iterator[Callable[..., None]]:
    """Set the variables of this process that say how to authenticate."""

    def use(**variables: str) -> None:
        for name in [name for name in os.environ if name.startswith(("RAY_AUTH", "RAY_ADDRESS"))]:
            monkeypatch.delenv(name)
        for name, value in {"HOME": str(tmp_path), **variables}.items():
            monkeypatch.setenv(name, value)

    yield use
    monkeypatch.undo()
    ray_local.load_authentication()


WRONG = [
    ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}, "the token is missing or wrong"),
    ({"RAY_AUTH_MODE": "token"}, "the token is missing or wrong"),
    (
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/none"},
        "cannot be opened or is empty: /none",
    ),
    ({}, "the token is missing or wrong"),
]


@pytest.mark.parametrize("address", ["auto", "host and port"])
@pytest.mark.parametrize(("variables", "why"), WRONG)
def test_a_missing_or_wrong_token_is_one_line_at_once(secure, token, address, variables, why):
    token(**variables, RAY_ADDRESS=secure.address)
    begin = time.monotonic()
    settings = RaySettings(address=secure.address if address != "auto" else "auto")
    with pytest.raises(InputError) as refused, connected(settings):
        pytest.fail("connected")
    assert time.monotonic() - begin < 60  # Ray tries for two minutes
    assert why in str(refused.value)
    assert str(refused.value).endswith("to a file with the token of the cluster")
    assert "\n" not in str(refused.value)


def test_on_a_node_a_token_is_used_as_ray_start_uses_it_without_being_told(
    secure, token, tmp_path, monkeypatch
):
    token()
    (tmp_path / ".ray").mkdir()
    shutil.copy(secure.environment["RAY_AUTH_TOKEN_PATH"], tmp_path / ".ray" / "auth_token")
    monkeypatch.setattr(ray._private.services, "find_gcs_addresses", lambda: {secure.address})
    monkeypatch.setattr(ray._private.services, "find_bootstrap_address", lambda _: None)
    assert reachable_cluster("auto") == secure.address
    token()
    with pytest.raises(InputError, match="the token is missing or wrong"):
        reachable_cluster(secure.address)


def test_a_machine_that_is_not_a_node_is_told_how_to_become_one(secure, token, monkeypatch):
    token(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=secure.environment["RAY_AUTH_TOKEN_PATH"])
    monkeypatch.setattr(ray._private.services, "find_node_ids", frozenset)
    with pytest.raises(
        InputError, match=r"this machine is not a node .*or submit the run as a job"
    ):
        reachable_cluster(secure.address)


@pytest.mark.parametrize("command", ["tokenize", "plan", "enhance", "train"])
def test_every_command_that_joins_a_cluster_says_so_with_exit_code_2(
    secure, token, command, tmp_path
):
    token(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="wrong")
    path = train_yaml(tmp_path)
    workers = "workers={num_gpus: 0, count: 1}"
    if command != "train":
        section = {"enhance": "enhancer: {name: spectral-gating}"}.get(
            command, "codec: {name: 'null'}"
        )
        path.write_text(f"shards: ['{tmp_path}/shards/']\noutput: '{tmp_path}/out'\n{section}\n")
    done = invoke(command, path, workers, f"ray.address={secure.address}")
    assert done.exit_code == 2
    assert "refuses this run: the token is missing or wrong" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("wrong", ["", "f" * 64], ids=["missing", "wrong"])
def test_the_doctor_names_a_token_that_the_cluster_refuses(secure, token, tmp_path, wrong):
    token(**({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": wrong} if wrong else {}))
    ray_local.load_authentication()
    said = "the token is missing or wrong; set RAY_AUTH_MODE=token"
    assert_both_fail(on_cluster(tmp_path, secure.address), "ray", said)


def test_the_doctor_finds_no_fault_where_its_token_is_accepted(secure, tmp_path):
    path = on_cluster(tmp_path, secure.address)
    said = secure.run("speechmill", "doctor", str(path), "--seconds", "120")
    assert f"2 nodes with 0 GPUs and 2 CPUs, token accepted, at {secure.address}" in said
    assert Path(secure.environment["RAY_AUTH_TOKEN_PATH"]).read_text() not in said


def test_a_pod_that_is_stopped_leaves_the_cluster(secure):
    [node] = [
        each for each in secure.nodes() if each["node_ip"] != secure.address.partition(":")[0]
    ]
    script = pre_stop(WORKER)[-1]
    # In a pod there is one node and one raylet; here there are others.
    script = script.replace("ray drain-node", f"ray drain-node --node-id {node['node_id']}")
    script = script.replace("/proc/[0-9]*/comm", f"/proc/{secure.raylet.pid}/comm")
    assert str(secure.raylet.pid) in script
    assert node["node_id"] in script
    assert is_raylet(secure.raylet)
    secure.run(*pre_stop(WORKER)[:-1], script)
    while is_raylet(secure.raylet):
        time.sleep(0.1)
