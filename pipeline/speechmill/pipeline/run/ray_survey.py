"""What a Ray cluster has, for a check before a run."""

from collections.abc import Iterable
from dataclasses import dataclass

import ray

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.run.job import RaySettings
from speechmill.pipeline.run.ray_address import check_token
from speechmill.pipeline.run.ray_cluster import connected
from speechmill.pipeline.run.ray_nodes import compare_nodes, living_nodes


@dataclass(frozen=True, slots=True)
class Node:
    """A living node and its resources, such as CPU, GPU and object_store_memory."""

    address: str
    resources: dict[str, float]


@dataclass(frozen=True, slots=True)
class RayCluster:
    """What a cluster has, and whether it asks for a token."""

    nodes: tuple[Node, ...]
    differences: tuple[str, ...]  # nodes whose packages are not those of this process
    asks_for_token: bool

    @property
    def resources(self) -> dict[str, float]:
        """The sums over all nodes."""
        names = {name for node in self.nodes for name in node.resources}
        return {name: sum(n.resources.get(name, 0.0) for n in self.nodes) for name in names}


def survey_cluster(cluster: RaySettings, packages: Iterable[str]) -> RayCluster:
    """Join a cluster for a moment, and compare the packages that can change a token.

    `packages` are further ones of the run. Raises `InputError` if the cluster does not answer, or
    refuses this process.
    """
    with connected(cluster):
        nodes = tuple(
            Node(each["NodeManagerAddress"], dict(each["Resources"])) for each in living_nodes()
        )
        differences = tuple(map(str, compare_nodes(packages)))
        try:
            check_token(ray.get_runtime_context().gcs_address, "")
        except InputError:
            return RayCluster(nodes, differences, asks_for_token=True)
        return RayCluster(nodes, differences, asks_for_token=False)
