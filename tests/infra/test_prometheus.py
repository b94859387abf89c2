"""The rules and the dashboard, asked of a real Prometheus that scrapes a real run."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from ray.cluster_utils import Cluster

from tests.conftest import FRAGILE_PYTHONPATH
from tests.corpus import clip, corpus, tar_bytes
from tests.infra.monitoring import FOLDER, alerts, dashboard_queries, rules
from tests.jobs.conftest import command, write_config

CONFIG = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())
STORIES = yaml.safe_load((FOLDER / "prometheus" / "rules_test.yml").read_text())
DISCOVERY = "prom_metrics_service_discovery.json"
WRITE_DISCOVERY = (
    "import sys; from ray._private.metrics_agent import PrometheusServiceDiscoveryWriter as Writer;"
    " Writer(*sys.argv[1:]).write()"
)
# What a run without such failures does not count.
QUIET = ("retries_total", "worker_events_total")


@pytest.fixture(scope="session", autouse=True)
def debian_package() -> None:
    if not shutil.which("promtool"):
        message = "Prometheus is missing: run 'apt-get install prometheus' as root"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


class Prometheus:
    """A server with our configuration, but for where Ray's file is and how often it asks."""

    def __init__(self, folder: Path, discovery: Path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        config = json.loads(json.dumps(CONFIG))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(FOLDER / "prometheus" / name) for name in CONFIG["rule_files"]]
        config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [str(discovery)]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        options = {
            "config.file": folder / "prometheus.yml",
            "storage.tsdb.path": folder / "data",
            "web.listen-address": self.url.removeprefix("http://"),
        }
        self.folder = folder
        self.started = time.time()
        self.process = subprocess.Popen(
            ["prometheus", *(f"--{name}={value}" for name, value in options.items())],
            stderr=(folder / "log").open("w"),
        )

    def get(self, path: str, **parameters: Any) -> Any:
        address = f"{self.url}/api/v1/{path}?{urlencode(parameters)}"
        return json.load(urlopen(address, timeout=10))["data"]

    def has(self, expression: str) -> bool:
        """Whether it had a value at any time; an expression that is wrong raises an error."""
        times = {"start": self.started, "end": time.time(), "step": 1}
        return bool(self.get("query_range", query=expression, **times)["result"])

    def gets(self, expression: str) -> bool:
        """Whether it has a value within 15 s, before Ray forgets a process that has ended.

        Values arrive a scrape later than a run records them, and on a busy machine a scrape may
        take longer than its second and fail.
        """
        deadline = time.monotonic() + 15
        while not self.has(expression):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A server that has seen a run with a reject and a shard that was given up on.

    It takes 2 s for each shard: the driver is then scraped several times after its first shard.
    """
    folder = tmp_path_factory.mktemp("prometheus")
    arguments = [cluster.gcs_address, str(folder)]
    subprocess.run([sys.executable, "-c", WRITE_DISCOVERY, *arguments], check=True)
    server = Prometheus(folder, folder / DISCOVERY)
    whole = tar_bytes([("a.flac", clip(0.5)), ("bad.flac", b"junk")])
    shards = {**corpus(2, 3), "bad.tar": whole, "cut.tar": whole[:700]}
    (folder / "in").mkdir()
    for name, data in shards.items():
        (folder / "in" / name).write_bytes(data)
    environment = {"PYTHONPATH": FRAGILE_PYTHONPATH}
    config = write_config(folder, cluster, folder / "in", folder / "out", "fragile", environment)
    arguments = ["tokenize", str(config), "codec.options.seconds=2", "workers.shards_in_flight=1"]
    try:
        done = subprocess.run(command(*arguments), env=os.environ | environment)
        assert done.returncode == 1
        yield server
    finally:
        server.process.terminate()
        server.process.wait(30)


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER / "prometheus", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_is_one_that_prometheus_takes_and_names_the_file_of_ray():
    promtool("check", "config", "prometheus.yml")
    [job] = CONFIG["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": [f"/tmp/ray/{DISCOVERY}"]}]


def test_alerts_fire_and_stay_silent_as_the_stories_say():
    promtool("test", "rules", "rules_test.yml")


@pytest.mark.parametrize("alert", [alert["alert"] for alert in alerts()])
def test_there_is_a_story_in_which_an_alert_fires_and_one_in_which_it_is_silent(alert):
    told = [case for story in STORIES["tests"] for case in story["alert_rule_test"]]
    fires = {bool(case.get("exp_alerts")) for case in told if case["alertname"] == alert}
    assert fires == {True, False}


@pytest.mark.parametrize("query", dashboard_queries())
def test_every_panel_shows_what_a_run_did(prometheus, query):
    query = query.replace("$__rate_interval", "1m")
    if any(name in query for name in QUIET):
        prometheus.has(query)  # no error: it is a query
    else:
        assert prometheus.gets(query)


def test_prometheus_evaluates_every_rule_and_its_own_series_have_values(prometheus):
    found = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in found} == {
        rule.get("alert") or rule["record"]: "ok" for rule in rules()
    }
    assert all(prometheus.gets(rule["record"]) for rule in rules() if "record" in rule)


def test_a_run_that_ends_with_a_failed_shard_gives_that_alert_and_no_other(prometheus):
    assert prometheus.gets("speechmill:shards_left == 0")
    assert prometheus.gets('ALERTS{alertname="ShardGivenUp", alertstate="firing"}')
    assert not prometheus.has('ALERTS{alertname!="ShardGivenUp", alertstate="firing"}')


def test_the_log_of_a_run_names_the_node_that_committed_a_shard(prometheus, cluster):
    [log] = prometheus.folder.glob("out/runs/*/events.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    nodes = {event["node"] for event in events if event["event"] == "committed"}
    assert nodes == {cluster.head_node.node_id}
