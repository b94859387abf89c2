"""A simulated Ray for the driver of a run: actors, references, nodes that leave, and a clock.

It offers what `ray_pool` and `ray_workers` call, so that their code runs as on a cluster. What
takes time on a cluster is here a jump of the clock. The time of the simulation itself is measured,
to be subtracted.
"""

import heapq
import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from queue import Empty
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError

from speechmill.pipeline.errors import ShardCut, StreamBroken
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.writer import ShardReport

GPUS = 8  # of a node, each with a worker
CPUS = 128
ANSWER_SECONDS = 0.002  # until a call that computes nothing has returned
AUDIO_SECONDS = 3600.0  # of a shard


@dataclass(frozen=True, kw_only=True)
class World:
    """How a cluster behaves."""

    workers: int = 4000
    shard_seconds: float = 40.0  # median time of a shard, at a worker that holds others too
    spread: float = 0.6  # of the logarithm of that time
    failures: float = 0.01  # of attempts: the process dies, a decoder dies, or the tar is cut
    slow_nodes: float = 0.02  # share of all nodes
    slowness: float = 5.0  # times as long as elsewhere a shard takes there
    losses: float = 0.05  # share of the nodes that leave in an hour, with their workers
    return_seconds: float = 300.0  # mean time until another node takes their place
    start_seconds: float = 10.0  # of a process
    load_seconds: float = 80.0  # of a codec
    seed: int = 0

    def moment(self, order: int) -> float:
        """E[T^order] of the time of a shard on a node that is not slow; lognormal."""
        return self.shard_seconds**order * math.exp(order**2 * self.spread**2 / 2)

    @property
    def repeated_share(self) -> float:
        """Share of the work that is done twice because nodes leave.

        A shard in flight has run for E[T²] / 2 E[T] on average, and for longer on a slow node.
        """
        slowness = 1 + self.slow_nodes * (self.slowness - 1)
        return self.losses / 3600 * slowness * self.moment(2) / (2 * self.moment(1))

    @property
    def absent_share(self) -> float:
        """Share of the time in which a worker is away or loads its codec again."""
        away = self.return_seconds + self.start_seconds + self.load_seconds
        return self.losses / 3600 * away


class Reference:
    """An answer that may not be there yet, and its own future."""

    __slots__ = ("actor", "callback", "done", "error", "shard", "started", "value")

    def __init__(self, actor: "Actor", shard: Shard | None, started: float):
        self.actor, self.shard, self.started = actor, shard, started
        self.done = False
        self.value: Any = None
        self.error: Exception | None = None
        self.callback: Callable[[Reference], None] | None = None

    def future(self) -> "Reference":
        return self

    def add_done_callback(self, callback: "Callable[[Reference], None]") -> None:
        if self.done:
            callback(self)
        else:
            self.callback = callback


@dataclass(eq=False, slots=True)
class Node:
    name: str
    slowness: float
    actors: "dict[Actor, None]"


class Actor:
    """The handle of an actor; it has no process while no node has a GPU for it."""

    def __init__(self, ray: "SimulatedRay"):
        self.node: Node | None = None
        self.is_running = False
        self.open: dict[Reference, None] = {}  # calls without an answer
        self.introduce = Method(ray, self, ray.call_introduce)
        self.load = Method(ray, self, ray.call_load)
        self.run = Method(ray, self, ray.call_run)
        self.heartbeat = Method(ray, self, ray.call_heartbeat)


def simulated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Count the time of a method as the simulation's, not the driver's."""

    @wraps(function)
    def timed(self: Any, *arguments: Any, **named: Any) -> Any:
        ray = self.ray
        started = ray.entered = time.thread_time()
        try:
            return function(self, *arguments, **named)
        finally:
            ray.own_seconds += time.thread_time() - started

    return timed


class Method:
    """A method of an actor; the driver calls `method.remote(...)`."""

    __slots__ = ("actor", "call", "ray")

    def __init__(self, ray: "SimulatedRay", actor: Actor, call: Callable[..., None]):
        self.ray, self.actor, self.call = ray, actor, call

    @simulated
    def remote(self, shard: Shard | None = None, *_: object) -> Reference:
        reference = Reference(self.actor, shard, self.ray.now)
        self.actor.open[reference] = None
        self.ray.calls[self.call.__name__] += 1
        self.call(reference)
        return reference


class ActorClass:
    """What `ray.remote(Worker)` returns."""

    def __init__(self, ray: "SimulatedRay"):
        self.ray = ray

    def options(self, **_: Any) -> "ActorClass":
        return self

    @simulated
    def remote(self, *_: object) -> Actor:
        actor = Actor(self.ray)
        self.ray.place(actor)
        return actor


class Finished:
    """A queue of finished references: to wait for one lets the clock jump."""

    def __init__(self, ray: "SimulatedRay"):
        self.ray = ray
        self.items: deque[Any] = deque()
        self.put = self.items.append

    def get(self, timeout: float) -> Any:
        if not self.items:
            self.ray.advance(self.ray.now + timeout, self.items)
        return self.get_nowait()

    def get_nowait(self) -> Any:
        if not self.items:
            raise Empty
        return self.items.popleft()


class SimulatedRay:
    """The modules `ray` and `time`, for one run."""

    ObjectRef = Reference

    def __init__(self, world: World, on_commit: Callable[[Shard], None]):
        self.ray = self  # for `simulated`
        self.world = world
        self.on_commit = on_commit
        self.now = 0.0
        self.calls: Counter[str] = Counter()
        self.run_seconds = 0.0  # of shards that ended
        self.lost_shards = 0  # in flight on nodes that left
        self.repeated_seconds = 0.0  # for which they had run
        self.lost_nodes = 0
        self.own_seconds = 0.0  # CPU time of this class
        self.entered = 0.0  # CPU time of the thread when the driver called
        self.busy: Counter[int] = Counter()  # CPU microseconds of the driver by second of the clock
        self._noted = time.thread_time()
        self._chance = random.Random(world.seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._homeless: deque[Actor] = deque()
        self._nodes: dict[str, Node] = {}
        for _ in range(math.ceil(world.workers / GPUS)):
            self._add_node()

    # The clock.

    def monotonic(self) -> float:
        return self.now

    @simulated
    def sleep(self, seconds: float) -> None:
        self._advance(self.now + seconds, ())

    @simulated
    def advance(self, end: float, until: Sequence[Any]) -> None:
        """Let events happen until there is something in `until`, at most to `end`."""
        self._advance(end, until)

    def _advance(self, end: float, until: Sequence[Any]) -> None:
        driver = self.entered - self.own_seconds
        if self.now:  # before it, the output is claimed and the actors are made
            self.busy[int(self.now)] += round((driver - self._noted) * 1e6)
        self._noted = driver
        while not until:
            if not self._events or self._events[0][0] > end:
                self.now = max(self.now, end)
                return
            self.now, _, happen, arguments = heapq.heappop(self._events)
            happen(*arguments)

    def _later(self, seconds: float, happen: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, happen, arguments))

    # What the driver calls.

    cloudpickle = cloudpickle

    def remote(self, _: type) -> ActorClass:
        return ActorClass(self)

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": float(GPUS * len(self._nodes)), "CPU": float(CPUS * len(self._nodes))}

    def nodes(self) -> list[dict[str, Any]]:
        resources = {"GPU": float(GPUS), "CPU": float(CPUS)}
        return [
            {"NodeID": name, "Alive": True, "Resources": resources} for name in tuple(self._nodes)
        ]

    def is_gone(self, node: str | None) -> bool:
        return node not in self._nodes

    def get(self, reference: Reference) -> Any:
        if reference.error:
            raise reference.error
        return reference.value

    @simulated
    def wait(
        self, references: list[Reference], num_returns: int, timeout: float
    ) -> tuple[list[Reference], list[Reference]]:
        """As `ray.wait`, with a timeout of 0 or one that is no longer than the next event."""
        self._advance(self.now + timeout, [True] if not timeout else _Done(references))
        done = [reference for reference in references if reference.done][:num_returns]
        return done, []

    @simulated
    def kill(self, actor: Actor, no_restart: bool = True) -> None:
        if actor.is_running and not no_restart:
            self._die(actor)

    # What actors do.

    def place(self, actor: Actor) -> None:
        """Start a process on the node that has the most free GPUs, or wait for one."""
        node = min(self._nodes.values(), key=lambda each: len(each.actors), default=None)
        if node is None or len(node.actors) == GPUS:
            self._homeless.append(actor)
            return
        actor.node = node
        node.actors[actor] = None
        self._later(self.world.start_seconds, self._start, actor, node)

    def _start(self, actor: Actor, node: Node) -> None:
        if actor.node is node:
            actor.is_running = True
            for reference in list(actor.open):
                self._answer(reference, (node.name, {}))

    def call_introduce(self, reference: Reference) -> None:
        if reference.actor.is_running:
            assert reference.actor.node
            answer = (reference.actor.node.name, {})
            self._later(ANSWER_SECONDS, self._answer, reference, answer)

    def call_load(self, reference: Reference) -> None:
        seconds = self.world.load_seconds * self._chance.lognormvariate(0, 0.2)
        self._later(seconds, self._answer, reference)

    def call_heartbeat(self, reference: Reference) -> None:
        self._later(ANSWER_SECONDS, self._answer, reference, (self.now, {}))

    def call_run(self, reference: Reference) -> None:
        node = reference.actor.node
        if node is None or not reference.actor.is_running:
            self._later(ANSWER_SECONDS, self._fail, reference, RayActorError())
            return
        seconds = self.world.shard_seconds * self._chance.lognormvariate(0, self.world.spread)
        failed = self._chance.random() < self.world.failures
        end = self._chance.choice((self._crash, self._break, self._cut)) if failed else self._commit
        self._later(seconds * node.slowness, end, reference)

    def _commit(self, reference: Reference) -> None:
        shard = reference.shard
        if reference not in reference.actor.open or shard is None:
            return
        seconds = self.now - reference.started
        self.run_seconds += seconds
        self.on_commit(shard)
        times = {"encode_seconds": seconds / 4, "starved_seconds": seconds / 50}
        times |= {"decode_seconds": seconds, "decode_cpu_seconds": seconds, "write_seconds": 0.2}
        rejects = {"UndecodableAudio": 1}
        self._answer(
            reference, ShardReport(shard.url, 500, 45_000, AUDIO_SECONDS, rejects, **times)
        )

    def _crash(self, reference: Reference) -> None:
        if reference in reference.actor.open:
            self._die(reference.actor)

    def _break(self, reference: Reference) -> None:
        self._fail(reference, RayTaskError("run", "", StreamBroken("the decoder died")))

    def _cut(self, reference: Reference) -> None:
        self._fail(reference, RayTaskError("run", "", ShardCut("the tar is cut")))

    def _answer(self, reference: Reference, value: Any = None) -> None:
        reference.value = value
        self._fail(reference, None)

    def _fail(self, reference: Reference, error: Exception | None) -> None:
        """End a call, unless its actor died before."""
        if reference not in reference.actor.open:
            return
        del reference.actor.open[reference]
        reference.error, reference.done = error, True
        if reference.callback:
            reference.callback(reference)

    def _die(self, actor: Actor) -> None:
        """A process ends; Ray starts it again on the same node."""
        node = actor.node
        actor.is_running = False
        for reference in list(actor.open):
            self._fail(reference, RayActorError())
        if node:
            self._later(self.world.start_seconds, self._start, actor, node)

    # Nodes.

    def _add_node(self) -> None:
        slow = self._chance.random() < self.world.slow_nodes
        node = Node(f"node-{self._count}", self.world.slowness if slow else 1.0, {})
        self._count += 1
        self._nodes[node.name] = node
        if self.world.losses:
            self._later(self._chance.expovariate(self.world.losses / 3600), self._lose, node)
        for _ in range(min(GPUS, len(self._homeless))):
            self.place(self._homeless.popleft())

    def _lose(self, node: Node) -> None:
        del self._nodes[node.name]
        self.lost_nodes += 1
        for actor in node.actors:
            running = [each for each in actor.open if each.shard]
            self.lost_shards += len(running)
            self.repeated_seconds += sum(self.now - each.started for each in running)
            actor.node = None
            self._die(actor)
            self._homeless.append(actor)
        self._later(self._chance.expovariate(1 / self.world.return_seconds), self._add_node)


class _Done:
    """True when one of some references is done."""

    def __init__(self, references: list[Reference]):
        self.references = references

    def __bool__(self) -> bool:
        return any(reference.done for reference in self.references)
