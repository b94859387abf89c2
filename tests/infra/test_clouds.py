"""The files for Ray's cluster launcher: held to the schemas of Ray and of EC2, without a cloud."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler.sdk
import yaml
from botocore.session import Session
from botocore.validate import ParamValidator

from tests.conftest import REPOSITORY
from tests.http_server import QuietHandler, serving

FOLDER = REPOSITORY / "infra" / "clouds"
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
CONFIGS = {
    cloud: yaml.safe_load((FOLDER / f"{cloud}.yaml").read_text()) for cloud in ("aws", "gcp")
}
CLOUD = pytest.mark.parametrize("cloud", CONFIGS)
TOKEN = "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/home/speechmill/.ray/auth_token"


@CLOUD
def test_ray_accepts_the_file(cloud):
    jsonschema.validate(CONFIGS[cloud], SCHEMA)
    filled = ray.autoscaler.sdk.fillout_defaults(CONFIGS[cloud])
    jsonschema.validate(filled, SCHEMA)
    assert filled["available_node_types"].keys() == {"head", "gpu", "decode"}
    assert filled["setup_commands"] == filled["head_setup_commands"] == []


def test_ec2_accepts_every_node():
    model = Session().get_service_model("ec2").operation_model("RunInstances")
    for kind in CONFIGS["aws"]["available_node_types"].values():
        request = kind["node_config"] | {"MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(request, model.input_shape)
        assert not report.has_errors(), report.generate_report()
        assert request.keys() <= model.input_shape.members.keys()


@CLOUD
def test_only_workers_are_spot_machines_and_they_fit_the_limits(cloud):
    config = CONFIGS[cloud]
    kinds = config["available_node_types"]
    is_spot = {name: "spot" in str(kind["node_config"]).lower() for name, kind in kinds.items()}
    assert is_spot == {"head": False, "gpu": True, "decode": True}
    assert kinds[config["head_node_type"]]["resources"] == {"CPU": 0}
    workers = [kind for name, kind in kinds.items() if name != "head"]
    assert sum(kind["max_workers"] for kind in workers) == config["max_workers"]
    assert all(kind["min_workers"] == 0 for kind in workers)
    assert config["provider"]["cache_stopped_nodes"] is False


@CLOUD
def test_ray_starts_with_the_token_everywhere_and_shows_the_dashboard_to_nobody(cloud):
    config = CONFIGS[cloud]
    assert config["file_mounts"]["/home/speechmill/.ray"] == "~/.ray"
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        [start] = [command for command in commands if "ray start" in command]
        assert start.startswith(TOKEN)
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert f"spot-notice.sh {cloud} " in config["worker_start_ray_commands"][-1]


@CLOUD
def test_rights_come_from_the_machine_and_no_key_is_in_the_file(cloud):
    text = (FOLDER / f"{cloud}.yaml").read_text().lower()
    assert not {
        word for word in ("secret", "access_key", "password", "private_key") if word in text
    }
    right = {"aws": "IamInstanceProfile", "gcp": "serviceAccounts"}[cloud]
    nodes = [kind["node_config"] for kind in CONFIGS[cloud]["available_node_types"].values()]
    assert len({str(node[right]) for node in nodes}) == 2  # one for the head, one for the workers


@pytest.fixture
def metadata():
    """A metadata server that announces the end of the machine at the third question."""
    asked = []

    class Metadata(QuietHandler):
        def do_PUT(self):
            self.answer(200, "session")

        def do_GET(self):
            asked.append((self.path, self.headers))
            if "preempted" in self.path:
                self.answer(200, "TRUE" if len(asked) > 2 else "FALSE")
            else:
                self.answer(200 if len(asked) > 2 else 404, "{}")

        def answer(self, status, text):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

    with serving(Metadata) as url:
        yield url, asked


@pytest.mark.skipif(not shutil.which("wget"), reason="no wget, which the image has")
@pytest.mark.parametrize(("cloud", "seconds"), [("aws", 110), ("gcp", 25)])
def test_a_spot_notice_drains_the_node(cloud, seconds, metadata, tmp_path):
    url, asked = metadata
    recorder = tmp_path / "ray"  # the drain itself is tested with the pods of Kubernetes
    recorder.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\n')
    recorder.chmod(recorder.stat().st_mode | stat.S_IXUSR)
    environment = os.environ | {"METADATA_URL": url, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = FOLDER / "spot-notice.sh"
    subprocess.run([script, cloud], env=environment, check=True)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[0] == "drain-node"
    assert arguments[-2:] == ["--deadline-remaining-seconds", str(seconds)]
    header = {"aws": ("X-aws-ec2-metadata-token", "session"), "gcp": ("Metadata-Flavor", "Google")}
    assert len(asked) == 3
    assert all(headers[header[cloud][0]] == header[cloud][1] for _, headers in asked)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck")
def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", FOLDER / "spot-notice.sh"], check=True)
