"""Where a run looks for a Ray cluster, and what it says when none is there."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.run.ray_address import reachable_cluster
from tests.web_server import Behaviour, serve


@contextmanager
def refused_at_once(match: str) -> Iterator[None]:
    begin = time.monotonic()
    with pytest.raises(InputError, match=match) as refused:
        yield
    assert "\n" not in str(refused.value)
    assert time.monotonic() - begin < 60  # Ray tries for two minutes


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else gets during the test."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "submit the run as a job: ray job submit --address http://head:8265"),
        ("http://head:8265", "is http://head:8265 but a run joins one only on its nodes"),
        ("head", "the address of a Ray cluster is 'head'; give auto, host:port"),
        ("head:x", "the address of a Ray cluster is 'head:x'; give auto, host:port"),
        ("local", "or null to start a cluster for this run"),
    ],
)
@pytest.mark.parametrize("by", ["configuration", "environment"])
def test_an_address_that_is_not_host_and_port_is_refused_with_the_cure(
    address: str, message: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    with refused_at_once(message):
        reachable_cluster("auto" if by == "environment" else address)


def test_auto_without_a_cluster_says_at_once_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Those of other tests do not count.
    monkeypatch.setattr(ray._private.services, "find_gcs_addresses", frozenset)
    monkeypatch.setattr(ray._private.services, "find_bootstrap_address", lambda _: None)
    with refused_at_once("no Ray cluster runs on this machine; start it with `ray start --head`"):
        reachable_cluster("auto")


def test_auto_does_not_wait_for_a_cluster_that_ended_without_ray_stop(
    unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    gone = f"127.0.0.1:{unused_port}"
    monkeypatch.setattr(ray._private.services, "find_gcs_addresses", frozenset)
    monkeypatch.setattr(ray._private.services, "find_bootstrap_address", lambda _: gone)
    with refused_at_once("no Ray cluster answers at .*Connection refused"):
        reachable_cluster("auto")


def test_a_named_head_that_is_still_starting_is_waited_for(
    unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechmill.pipeline.run.ray_address._CONNECT_SECONDS", 1.0)
    begin = time.monotonic()
    with pytest.raises(InputError, match="no Ray cluster answers at 127"):
        reachable_cluster(f"127.0.0.1:{unused_port}")
    assert time.monotonic() - begin > 1


def test_another_program_at_the_address_is_named_as_such() -> None:
    with serve(Behaviour()) as url:
        address = url.split("/")[2]
        with refused_at_once("a program answers at .*give the port that `ray start --head`"):
            reachable_cluster(address)
