"""The code that every process of a run executes first, whatever version its node has.

Ray sends it by value, and the work itself as bytes. These are read only after the versions of the
node were found to be those of the run: no code of another version can touch a job, or misread it.
"""

import pickle
import sys
from collections.abc import Iterator
from typing import Any

import ray

from speechmill.pipeline.versions import Differences, Versions, differences

Introduction = tuple[str, Differences]  # id of the node, and what differs there


def introduce(wanted: Versions) -> Introduction:
    """Tell the node of this process, and which of its versions are not the wanted ones."""
    return str(ray.get_runtime_context().get_node_id()), differences(wanted)


class WorkerProcess:
    """An actor that becomes a worker if its node has the wanted versions."""

    def __init__(self, wanted: Versions, worker: bytes):
        """`worker` is a pickled function that makes it."""
        self._introduction = introduce(wanted)
        self._worker: Any = None if self._introduction[1] else pickle.loads(worker)()

    def introduce(self) -> Introduction:
        return self._introduction

    def load(self) -> None:
        self._worker.load()

    def heartbeat(self) -> Any:
        return self._worker.heartbeat()

    def run(self, *arguments: Any) -> Any:
        return self._worker.run(*arguments)


def stream(wanted: Versions, work: bytes) -> Iterator[Any]:
    """Yield an introduction, then what a pickled generator function yields, if nothing differs."""
    introduction = introduce(wanted)
    yield introduction
    if not introduction[1]:
        function, arguments = pickle.loads(work)
        yield from function(*arguments)


for module in (introduce.__module__, differences.__module__):
    ray.cloudpickle.register_pickle_by_value(sys.modules[module])
