"""The nodes of the connected cluster: which of them a run can use."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from speechmill.pipeline.errors import NodeUnfit
from speechmill.pipeline.run.ray_process import Introduction, introduce
from speechmill.pipeline.versions import Differences, lacks_only_torch, token_versions

_NODE_LABEL = "ray.io/node-id"  # which Ray gives every node


@dataclass(frozen=True, slots=True)
class NodeDifferences:
    """The packages of a node whose versions are not those of this process."""

    address: str
    differences: Differences | None  # None: the node did not answer

    def __str__(self) -> str:
        if self.differences is None:
            return f"node {self.address} did not answer"
        found = [_difference(name, *versions) for name, versions in self.differences.items()]
        return f"node {self.address} has {', '.join(found)}"


def compare_nodes(packages: Iterable[str] = (), timeout: float = 60.0) -> list[NodeDifferences]:
    """Compare the living nodes with this process; return those that differ or do not answer.

    It compares the packages that can change a token, and these others; a node without torch may
    still decode, and counts as equal. `timeout` is in s.
    """
    wanted, ask = token_versions(packages), ray.remote(introduce)
    asked = {
        ask.options(num_cpus=0, scheduling_strategy=on_node(node)).remote(wanted): address
        for node, address in _addresses().items()
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout)
    found = [
        NodeDifferences(address, _answer(reference) if reference in answered else None)
        for reference, address in asked.items()
    ]
    return [
        node
        for node in found
        if node.differences != {} and not lacks_only_torch(node.differences or {})
    ]


def refusal(introduction: Introduction) -> NodeUnfit | None:
    """The error of a process whose node differs from the driver; None if it does not."""
    node, found = introduction
    if not found:
        return None
    where = NodeDifferences(_addresses().get(node, node), found)
    return NodeUnfit(f"{where}; install the driver's versions on every node")


def elsewhere(refused: Collection[str]) -> dict[str, str]:
    """The label selector that keeps a task or an actor from these nodes."""
    return {_NODE_LABEL: f"!in({','.join(sorted(refused))})"} if refused else {}


def living_nodes() -> list[dict[str, Any]]:
    """The nodes that are up, as `ray.nodes()` describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def living_resources(refused: Collection[str] = ()) -> list[Mapping[str, float]]:
    """What each living node has in all, but for these nodes."""
    return [node["Resources"] for node in living_nodes() if node["NodeID"] not in refused]


def has_autoscaler() -> bool:
    """Whether Ray may add nodes, of any size, when the present ones do not suffice."""
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return int(status.stats.autoscaler_version or 0) > 0


def on_node(node: str) -> NodeAffinitySchedulingStrategy:
    """Where a task or an actor runs: on this node and on no other."""
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _addresses() -> dict[str, str]:
    return {node["NodeID"]: node["NodeManagerAddress"] for node in living_nodes()}


def _answer(reference: ray.ObjectRef) -> Differences | None:
    try:
        return ray.get(reference)[1]  # type: ignore[no-any-return]
    except RayError:
        return None


def _difference(package: str, found: str | None, wanted: str | None) -> str:
    if found is None:
        return f"no {package} instead of {wanted}"
    return f"{package} {found} instead of {wanted or 'none'}"
