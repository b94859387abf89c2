"""Fixtures for S3 on 127.0.0.1: `rgw` is a real, durable store, `moto` a quick one in memory."""

import os
import shlex
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import s3fs
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

SCRIPT = Path(__file__).parents[1] / "infra/s3/rgw.sh"


@dataclass(frozen=True)
class S3Server:
    endpoint_url: str
    access_key: str = "testkey"
    secret_key: str = "testsecret"

    @property
    def storage_options(self) -> dict[str, str]:
        """What s3fs and `Storage({"s3": ...})` need to reach the server."""
        return {
            "key": self.access_key,
            "secret": self.secret_key,
            "endpoint_url": self.endpoint_url,
        }

    @property
    def environment(self) -> dict[str, str]:
        """What a child process needs so that plain s3:// URLs reach the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def filesystem(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(**self.storage_options, use_listings_cache=False)

    def make_bucket(self) -> str:
        url = f"s3://test-{uuid.uuid4().hex}"
        self.filesystem().mkdir(url)
        return url


@dataclass(frozen=True, kw_only=True)
class Rgw(S3Server):
    folder: str

    def kill(self) -> None:
        """Kill -9 all daemons at once, as a lost machine would."""
        _script("crash", self.folder)

    def restart(self) -> None:
        """Come back on the same port with what was acknowledged; nothing if it runs."""
        _script("start", self.folder)


def _script(*arguments: str) -> str:
    """The standard output of rgw.sh; its own words are in the error if it fails."""
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"rgw.sh {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _require_rgw() -> None:
    try:
        _script("install")
    except RuntimeError as error:
        message = f"Ceph RGW is missing: run 'infra/s3/rgw.sh install' as root ({error})"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def aws_environment() -> Iterator[None]:
    """Keep the developer's own profile, keys and endpoint out of every S3 client."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # Through the environment only: as a client argument it ends in a refused mkdir.
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield


@pytest.fixture(scope="session")
def rgw(aws_environment: None) -> Iterator[Rgw]:
    _require_rgw()
    # Not below TMPDIR: the daemons' unix sockets must have short paths.
    with tempfile.TemporaryDirectory(prefix="rgw-", dir="/tmp") as folder:
        try:
            exports = shlex.split(_script("start", folder))[1:]
            settings = dict(export.split("=", 1) for export in exports)
            yield Rgw(
                endpoint_url=settings["AWS_ENDPOINT_URL"],
                access_key=settings["AWS_ACCESS_KEY_ID"],
                secret_key=settings["AWS_SECRET_ACCESS_KEY"],
                folder=folder,
            )
        finally:
            _script("crash", folder)


@pytest.fixture
def bucket(rgw: Rgw) -> str:
    """The s3:// URL of a new bucket on a server that runs, whatever the last test did to it."""
    rgw.restart()
    return rgw.make_bucket()


@pytest.fixture(scope="session")
def moto(aws_environment: None) -> Iterator[S3Server]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield S3Server(f"http://{host}:{port}")
    server.stop()


@pytest.fixture
def moto_bucket(moto: S3Server) -> str:
    return moto.make_bucket()


def fill_moto(bucket: str, names: Iterable[str]) -> None:
    """Put an object of a few bytes under each name, inside the server, without requests."""
    store = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for name in names:
        store.put_object(bucket.removeprefix("s3://"), name, b"shard")
