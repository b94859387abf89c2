import socket
import time
from urllib.parse import urlsplit

import pytest

from tests.s3_server import Rgw, S3Server


def test_puts_gets_and_lists_objects(rgw: Rgw, bucket: str) -> None:
    fs = rgw.filesystem()
    fs.pipe_file(f"{bucket}/a/1.bin", b"one")
    fs.pipe_file(f"{bucket}/a/2.bin", b"")

    name = bucket.removeprefix("s3://")
    assert fs.cat_file(f"{bucket}/a/1.bin") == b"one"
    assert fs.find(bucket) == [f"{name}/a/1.bin", f"{name}/a/2.bin"]


def test_an_acknowledged_object_survives_kill_9_of_all_daemons(rgw: Rgw, bucket: str) -> None:
    fs = rgw.filesystem()
    body = bytes(range(256)) * 4096
    fs.pipe_file(f"{bucket}/kept.bin", body)

    rgw.kill()
    rgw.restart()

    assert fs.cat_file(f"{bucket}/kept.bin") == body


def test_a_killed_server_answers_nobody_until_its_restart(rgw: Rgw, bucket: str) -> None:
    address = urlsplit(rgw.endpoint_url)
    rgw.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port))

    rgw.restart()
    socket.create_connection((address.hostname, address.port)).close()


def test_a_bucket_can_be_made_right_after_a_crash(rgw: Rgw, bucket: str) -> None:
    rgw.kill()
    rgw.restart()
    begin = time.monotonic()

    assert rgw.filesystem().ls(rgw.make_bucket()) == []

    assert time.monotonic() - begin < 25


def test_moto_puts_gets_and_lists_objects(moto: S3Server, moto_bucket: str) -> None:
    fs = moto.filesystem()
    fs.pipe_file(f"{moto_bucket}/a/1.bin", b"one")

    assert fs.cat_file(f"{moto_bucket}/a/1.bin") == b"one"
    assert fs.find(moto_bucket) == [f"{moto_bucket.removeprefix('s3://')}/a/1.bin"]
