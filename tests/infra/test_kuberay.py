"""The files for KubeRay: held to its schemas, and to what a schema cannot say."""

from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from speechmill.jobs.config import load_config
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.run.job import claimed_cpus
from tests.conftest import REPOSITORY
from tests.infra.kubernetes import (
    FOLDER,
    amount,
    cluster_spec,
    crd_schema,
    find,
    groups,
    objects,
    pods,
    values_of,
)

JOB, CLUSTER = find("rayjob.yaml", "RayJob"), find("raycluster.yaml", "RayCluster")
CONFIG_MAP, CACHE = find("rayjob.yaml", "ConfigMap"), find("cache.yaml", "PersistentVolumeClaim")
NETWORK = find("network.yaml", "NetworkPolicy")
CUSTOM = pytest.mark.parametrize("custom", [JOB, CLUSTER], ids=["rayjob", "raycluster"])


@pytest.fixture
def config(tmp_path) -> TokenizeConfig:
    path = tmp_path / "tokenize.yaml"
    path.write_text(CONFIG_MAP["data"]["tokenize.yaml"])
    return load_config(TokenizeConfig, path, [])


def container(group: Any) -> Any:
    [only] = group["template"]["spec"]["containers"]
    return only


@CUSTOM
def test_kuberays_schema_allows_every_field(custom):
    schema = crd_schema(custom["kind"])
    jsonschema.Draft7Validator(schema).validate(custom)


@pytest.mark.parametrize("field", ["spec", "headGroupSpec", "containers", "autoscalerOptions"])
def test_a_misspelt_field_is_refused(field):
    broken = yaml.safe_load(yaml.safe_dump(CLUSTER))
    place = next(values_of(broken, field))
    (place[0] if isinstance(place, list) else place)["rayVerison"] = "2.60.0"
    with pytest.raises(jsonschema.ValidationError, match="rayVerison"):
        jsonschema.Draft7Validator(crd_schema("RayCluster")).validate(broken)


@pytest.mark.parametrize("own", [CONFIG_MAP, CACHE, NETWORK], ids=lambda own: own["kind"])
def test_the_schema_of_kubernetes_allows_every_field(own):
    kubernetes_validate.validate(own, kubernetes_validate.latest_version(), strict=True)
    broken = own | {"metadata": own["metadata"] | {"nmae": "x"}}
    with pytest.raises(kubernetes_validate.ValidationError, match="nmae"):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_the_policy_and_the_monitor_are_for_the_pods_of_ray():
    metrics = find("metrics.yaml", "PodMonitor")["spec"]
    assert set(metrics) == {"selector", "podMetricsEndpoints"}
    assert NETWORK["spec"]["podSelector"] == metrics["selector"]
    assert metrics["selector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    [endpoint] = metrics["podMetricsEndpoints"]
    rules = (REPOSITORY / "infra" / "prometheus" / "rules.yml").read_text()
    [relabeling] = endpoint["relabelings"]
    assert f'{relabeling["targetLabel"]}="{relabeling["replacement"]}"' in rules


def test_the_job_brings_up_the_cluster_of_the_other_file_and_mounts_its_configuration():
    def without_config(custom):
        spec = yaml.safe_load(yaml.safe_dump(cluster_spec(custom)))
        for each in chain(values_of(spec, "volumes"), values_of(spec, "volumeMounts")):
            each[:] = [one for one in each if one["name"] != "config"]
        return spec

    assert without_config(JOB) == without_config(CLUSTER)
    assert {"name": "config", "configMap": {"name": CONFIG_MAP["metadata"]["name"]}} in [
        volume for volumes in values_of(JOB, "volumes") for volume in volumes
    ]


@CUSTOM
def test_groups_and_volumes_have_names_of_their_own(custom):
    names = [group["groupName"] for group in cluster_spec(custom)["workerGroupSpecs"]]
    assert len(set(names)) == len(names) == 2
    for pod in pods(custom):
        volumes = [volume["name"] for volume in pod.get("volumes", [])]
        mounts = [each["name"] for one in pod["containers"] for each in one.get("volumeMounts", [])]
        assert sorted(volumes) == sorted(mounts)
        claims = [each["claimName"] for each in values_of(pod, "persistentVolumeClaim")]
        assert set(claims) <= {CACHE["metadata"]["name"]}


@CUSTOM
def test_every_pod_runs_one_image_and_requests_what_it_may_use(custom):
    for pod in pods(custom):
        for each in pod["containers"]:
            assert each["image"] == "ghcr.io/YOU/speechmill:0.1.0"
            requests = dict(each["resources"]["requests"])
            requests.pop("ephemeral-storage", None)  # a pod above its limit would be evicted
            assert requests == each["resources"]["limits"]


@CUSTOM
def test_the_object_store_fits_into_the_shared_memory_and_that_into_the_memory(custom):
    for group in groups(custom):
        [memory] = [
            amount(volume["emptyDir"]["sizeLimit"])
            for volume in group["template"]["spec"]["volumes"]
            if volume.get("emptyDir", {}).get("medium") == "Memory"
        ]
        assert int(group["rayStartParams"]["object-store-memory"]) <= memory
        assert memory <= amount(container(group)["resources"]["limits"]["memory"]) / 4


def test_the_configuration_asks_for_what_the_autoscaler_may_bring(config):
    gpu, decode = cluster_spec(JOB)["workerGroupSpecs"]
    limits = [container(group)["resources"]["limits"] for group in (gpu, decode)]
    assert config.workers.count == gpu["maxReplicas"] * int(limits[0]["nvidia.com/gpu"])
    assert "nvidia.com/gpu" not in limits[1]
    cores = [amount(limit["cpu"]) for limit in limits]
    given = cores[0] * gpu["maxReplicas"] + cores[1] * decode["maxReplicas"]
    decoding = config.workers.shards_in_flight * claimed_cpus(config.workers, config.shards[0])
    wanted = config.workers.count * (1 + decoding)
    assert wanted <= given <= 1.1 * wanted
    assert config.ray.address == "auto"


@CUSTOM
def test_the_head_runs_no_work_and_is_not_moved(custom):
    head = cluster_spec(custom)["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["metadata"]["annotations"] == {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    [[excluded]] = values_of(head["template"]["spec"]["affinity"], "matchExpressions")
    assert excluded["operator"] == "NotIn"
    for group in cluster_spec(custom)["workerGroupSpecs"]:
        [spot] = excluded["values"]
        assert group["template"]["spec"]["nodeSelector"][excluded["key"]] == spot
        assert excluded["key"] in str(group["template"]["spec"]["tolerations"])


@CUSTOM
def test_a_stopped_run_has_the_time_to_finish_its_shards(custom, config):
    grace = config.workers.grace_seconds
    head, *workers = groups(custom)
    [wait] = [
        float(each["value"])
        for each in container(head)["env"]
        if each["name"] == "RAY_JOB_STOP_WAIT_TIME_S"
    ]
    assert grace < wait < head["template"]["spec"]["terminationGracePeriodSeconds"]
    for group in workers:
        command = container(group)["lifecycle"]["preStop"]["exec"]["command"][-1].split()
        deadline = float(command[command.index("--deadline-remaining-seconds") + 1].rstrip(";"))
        assert grace < deadline < group["template"]["spec"]["terminationGracePeriodSeconds"]


@CUSTOM
def test_secrets_are_references_alone(custom):
    variables = [each for env in values_of(custom, "env") for each in env]
    by_reference = {each["name"]: each["valueFrom"] for each in variables if "valueFrom" in each}
    assert set(by_reference) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert all("secretKeyRef" in each for each in by_reference.values())
    plain = {each["name"] for each in variables if "value" in each}
    assert plain == {"AWS_DEFAULT_REGION", "RAY_JOB_STOP_WAIT_TIME_S"}
    assert cluster_spec(custom)["authOptions"] == {"mode": "token"}


@CUSTOM
def test_every_variable_is_one_that_ray_or_the_client_of_the_store_reads(custom):
    job_supervisor = Path(ray.__file__).parent / "dashboard/modules/job/job_supervisor.py"
    botocore = Path(pytest.importorskip("botocore").__file__).parent
    files = [job_supervisor, botocore / "credentials.py", botocore / "configprovider.py"]
    read = "".join(file.read_text() for file in files)
    for env in values_of(custom, "env"):
        assert all(each["name"] in read for each in env)


@CUSTOM
def test_no_container_runs_as_root_or_gains_rights(custom):
    for pod in pods(custom):
        assert (
            pod["securityContext"].items()
            >= {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            }.items()
        )
    containers = [each for pod in pods(custom) for each in pod["containers"]]
    for each in [*containers, cluster_spec(custom)["autoscalerOptions"]]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


def test_every_file_of_the_folder_is_checked_here():
    kinds = {each["kind"] for path in FOLDER.glob("*") for each in objects(path)}
    ours = {"PersistentVolumeClaim", "NetworkPolicy", "PodMonitor"}
    assert kinds == {"RayCluster", "ConfigMap", "RayJob"} | ours
