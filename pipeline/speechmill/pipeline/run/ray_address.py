"""Where a Ray cluster is, and whether it accepts the token of this process.

Ray itself says that nothing answers after two minutes, and that a token is wrong after twenty
warnings.
"""

import os
import socket
import time
from urllib.parse import urlsplit

import grpc
import ray
from ray.exceptions import AuthenticationError

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.run.ray_local import load_authentication, own_token

_AUTO = "auto"
_CONNECT_SECONDS = 10.0  # for a head node that is still starting
_WRONG = "the token is missing or wrong"
_PING = "/ray.rpc.NodeInfoGcsService/CheckAlive"


def reachable_cluster(setting: str) -> str:
    """Return host:port of the cluster of `ray.address` that accepts the token of this process.

    For `auto`, that is the cluster of `RAY_ADDRESS`, or one that runs on this machine. Raises
    `InputError` if there is none, if nothing answers there, if the token is refused, or if no node
    of a cluster runs on this machine.
    """
    address = setting
    if setting == _AUTO:
        address = os.environ.get("RAY_ADDRESS") or _AUTO
    if found := address == _AUTO:
        address = _running_here()
    _require_host_and_port(address)
    _wait_for_answer(address, 0 if found else _CONNECT_SECONDS)
    _authenticate(address, found)
    if not ray._private.services.find_node_ids():  # Ray waits a minute for one to start
        raise not_a_node(address)
    return address


def check_token(address: str, token: str) -> None:
    """Raise `InputError` if a cluster refuses a token, or if host:port is not that of its GCS."""
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    headers = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_PING)(b"", timeout=_CONNECT_SECONDS, metadata=headers)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise refused(address) from None
            raise InputError(
                f"a program answers at {address}, but not as the head of a Ray cluster "
                f"({error.code().name}); give the port that `ray start --head` listens on, 6379 by "
                "default"
            ) from None


def refused(address: str, why: str = _WRONG) -> InputError:
    """Return the error of a cluster that does not accept the token of this process."""
    return InputError(
        f"the Ray cluster at {address} refuses this run: {why}; set RAY_AUTH_MODE=token, and "
        "RAY_AUTH_TOKEN_PATH to a file with the token of the cluster"
    )


def not_a_node(address: str) -> InputError:
    """Return the error of a run on a machine that does not belong to the cluster."""
    host = urlsplit(f"//{address}").hostname
    return InputError(
        f"this machine is not a node of the Ray cluster at {address}; make it one by "
        f"`ray start --address={address} --num-cpus=0`, or submit the run as a job: "
        f"ray job submit --address http://{host}:8265 -- speechmill …"
    )


def _authenticate(address: str, found: bool) -> None:
    """Check the token; use one that `RAY_AUTH_MODE` does not mention only on this machine.

    `ray start --head` turns authentication on by itself if this user has a token. Like Ray, do not
    send that token to a host that somebody named.
    """
    load_authentication()
    try:
        check_token(address, own_token())
    except AuthenticationError as error:
        why, _, _ = str(error).partition(". ")
        raise refused(address, why if "RAY_AUTH_TOKEN_PATH is set" in why else _WRONG) from error
    except InputError:
        loader = ray._raylet.AuthenticationTokenLoader.instance()
        if not found or "RAY_AUTH_MODE" in os.environ or not loader.has_token(True):
            raise
        os.environ["RAY_AUTH_MODE"] = "token"
        load_authentication()
        check_token(address, own_token())


def _running_here() -> str:
    try:
        return str(ray._private.services.canonicalize_bootstrap_address(_AUTO))
    except ConnectionError as error:
        raise InputError(
            "ray.address is auto, but no Ray cluster runs on this machine; start it with "
            "`ray start --head`, give ray.address=host:port, or set ray.address=null to start a "
            "cluster for this run"
        ) from error


def _require_host_and_port(address: str) -> None:
    if "://" in address:
        host = urlsplit(address).hostname
        raise InputError(
            f"the address of a Ray cluster is {address} but a run joins one only on its nodes; "
            "there give ray.address=auto or host:port, from elsewhere submit the run as a job: "
            f"ray job submit --address http://{host}:8265 -- speechmill …"
        )
    try:
        url = urlsplit(f"//{address}")
        if url.hostname and url.port:
            return
    except ValueError:  # the port is not a number
        pass
    raise InputError(
        f"the address of a Ray cluster is {address!r}; give auto, host:port such as "
        "10.0.0.1:6379, or null to start a cluster for this run"
    )


def _wait_for_answer(address: str, patience: float) -> None:
    """Raise `InputError` if nothing listens at host:port for so many seconds."""
    url = urlsplit(f"//{address}")
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((url.hostname, url.port), _CONNECT_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise InputError(
                    f"no Ray cluster answers at {address}: {error}; start Ray there, or set "
                    "ray.address=null to start a cluster for this run"
                ) from error
            time.sleep(0.5)
