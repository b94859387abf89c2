"""The nodes of a Ray cluster, for a check before a run."""

from dataclasses import dataclass

import ray

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.run.job import RaySettings
from speechmill.pipeline.run.ray_cluster import check_token, connected


@dataclass(frozen=True, slots=True)
class Node:
    """A living node and its resources, such as CPU, GPU and object_store_memory."""

    address: str
    resources: dict[str, float]


@dataclass(frozen=True, slots=True)
class RayCluster:
    """What a cluster has, and whether it asks for a token."""

    nodes: tuple[Node, ...]
    asks_for_token: bool

    @property
    def resources(self) -> dict[str, float]:
        """The sums over all nodes."""
        names = {name for node in self.nodes for name in node.resources}
        return {name: sum(n.resources.get(name, 0.0) for n in self.nodes) for name in names}


def cluster_nodes(cluster: RaySettings) -> RayCluster:
    """Join a cluster for a moment; raises `InputError` if it does not answer or refuses to."""
    with connected(cluster):
        nodes = [
            Node(each["NodeManagerAddress"], dict(each["Resources"]))
            for each in ray.nodes()
            if each["Alive"]
        ]
        try:
            check_token(ray.get_runtime_context().gcs_address, "")
        except InputError:
            return RayCluster(tuple(nodes), asks_for_token=True)
        return RayCluster(tuple(nodes), asks_for_token=False)
