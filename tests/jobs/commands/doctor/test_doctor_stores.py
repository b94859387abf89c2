"""`speechmill doctor` on S3: what the store does to it, it does to the run."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.altering_proxy import Habit, alter
from tests.http_server import QuietHandler, serving
from tests.jobs.commands.doctor.examined import (
    assert_both_fail,
    assert_both_succeed,
    doctor,
    lines,
    tokenize_config,
)
from tests.jobs.conftest import command, wait_until
from tests.s3_server import S3Server

REDIRECT = (
    b'<?xml version="1.0"?><Error><Code>PermanentRedirect</Code>'
    b"<Message>The bucket must be addressed using the specified endpoint.</Message></Error>"
)


def s3_config(folder: Path, server: S3Server, output: str, **options: str) -> Path:
    """The small corpus of this machine, and an output on the server."""
    s3 = {**server.storage_options, **options}
    return tokenize_config(folder, output=output, storage={"s3": s3})


def test_a_healthy_store_keeps_nothing_of_the_doctor(tmp_path, moto, moto_bucket):
    config = s3_config(tmp_path, moto, f"{moto_bucket}/out")
    code, found = doctor(config)
    assert (code, lines(found, "fault"), moto.filesystem().find(moto_bucket)) == (0, [], [])
    said = {each["check"]: each["message"] for each in found}
    assert "conditional writes work" in said["output"]
    assert "that of the store" in said["clock"]
    assert_both_succeed(config)


def test_a_missing_bucket_is_a_fault(tmp_path, moto):
    config = s3_config(tmp_path, moto, "s3://nowhere-at-all/out")
    assert_both_fail(config, "output", "no bucket 'nowhere-at-all'")


def test_wrong_keys_are_a_fault_and_stay_secret(tmp_path, rgw, bucket):
    config = s3_config(tmp_path, rgw, f"{bucket}/out", secret="hush-wrong-secret")
    found = assert_both_fail(config, "output", "check key, secret and endpoint_url")
    assert "hush" not in json.dumps(found)


def test_missing_keys_are_a_fault(tmp_path, moto, moto_bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    storage = {"s3": {"endpoint_url": moto.endpoint_url}}
    config = tokenize_config(tmp_path, output=f"{moto_bucket}/out", storage=storage)
    assert_both_fail(config, "output", ("Unable to locate credentials", "set storage."))


def test_input_that_cannot_be_listed_leaves_the_other_checks(tmp_path, moto, moto_bucket):
    shards = ["s3://nowhere-at-all/x-{00..99}.tar"]
    storage = {"s3": moto.storage_options}
    config = tokenize_config(tmp_path, shards=shards, output=f"{moto_bucket}/out", storage=storage)
    found = assert_both_fail(config, "input", "no bucket 'nowhere-at-all'")
    assert {"shards: needs input", "dataset: needs shards"} <= set(lines(found, "skipped"))
    assert any(line.startswith("output: ") for line in lines(found, "ok"))


@contextmanager
def region_redirect() -> Iterator[str]:
    """An endpoint whose buckets are all in eu-west-1."""

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(301)
            self.send_header("x-amz-bucket-region", "eu-west-1")
            self.send_header("Content-Length", str(len(REDIRECT)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(REDIRECT)

        do_GET = do_HEAD = do_PUT = do_DELETE = answer

    with serving(Handler) as url:
        yield url


def test_a_bucket_in_another_region_is_named_with_its_region(tmp_path, aws_environment):
    with region_redirect() as url:
        config = s3_config(tmp_path, S3Server(url), "s3://far-away/out")
        said = "'far-away' is in the region eu-west-1; set storage.s3.client_kwargs.region_name"
        assert_both_fail(config, "output", said)


def test_a_store_that_never_answers_is_a_fault_within_seconds(tmp_path, aws_environment):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        storage = {
            "s3": S3Server(url).storage_options
            | {"config_kwargs": {"read_timeout": 1, "connect_timeout": 1}}
        }
        config = tokenize_config(
            tmp_path, shards=["s3://silent/in/"], output="s3://silent/out", storage=storage
        )
        code, found = doctor(config)
        assert code == 1
        assert all("check endpoint_url" in line for line in lines(found, "fault"))
        assert {line.partition(":")[0] for line in lines(found, "fault")} == {"input", "output"}
        assert "clock: needs output" in lines(found, "skipped")


def test_a_store_without_conditional_writes_is_a_warning(tmp_path, moto, moto_bucket):
    with alter(moto.endpoint_url, Habit(conditional_writes=False)) as url:
        config = s3_config(tmp_path, moto, f"{moto_bucket}/out", endpoint_url=url)
        [line] = lines(assert_both_succeed(config), "warning", "output")
        assert "ignores conditional writes" in line


def test_a_clock_that_is_wrong_is_a_warning(tmp_path, moto, moto_bucket):
    with alter(moto.endpoint_url, Habit(ahead=1200)) as url:
        config = s3_config(tmp_path, moto, f"{moto_bucket}/out", endpoint_url=url)
        _, found = doctor(config)
        [line] = lines(found, "warning", "clock")
        said = (
            r"clock: 1,(19|20)\d s behind that of the store, and S3 refuses requests .* NTP client"
        )
        assert re.match(said, line), line


def test_ctrl_c_removes_the_scratch_key(tmp_path, moto, moto_bucket):
    with alter(moto.endpoint_url, Habit(get_seconds=5.0)) as url:
        config = s3_config(tmp_path, moto, f"{moto_bucket}/out", endpoint_url=url)
        process = subprocess.Popen(
            command("doctor", str(config)),
            env=os.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        store = moto.filesystem()
        wait_until(lambda: store.find(moto_bucket), process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        assert (process.returncode, said) == (130, "interrupted\n")
        assert store.find(moto_bucket) == []
