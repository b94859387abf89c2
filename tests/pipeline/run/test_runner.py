import heapq
from collections.abc import Callable

import pytest

from speechmill.codecs import CheckpointError
from speechmill.pipeline.errors import (
    NodeLost,
    RunStopped,
    ShardCut,
    StorageFull,
    StreamBroken,
    WorkerLost,
)
from speechmill.pipeline.run.policy import RunSettings
from speechmill.pipeline.run.runner import Event, ShardResult, Totals, run
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.writer import ShardReport

SHARDS = [Shard(f"{i}.tar", 1, "e") for i in range(8)]


class ScriptedPool:
    """Workers in simulated time: the script holds the seconds and the error of each attempt.

    An attempt that is not in the script takes 1 s and succeeds.
    """

    def __init__(self, script: dict[Shard, list[tuple[float, Exception | None]]], slots: int = 2):
        self.script = {shard: list(tries) for shard, tries in script.items()}
        self.slots = slots
        self.now = 0.0
        self.ends: list[tuple[float, int, Shard, Exception | None]] = []
        self.log: list[tuple[float, Shard, bool]] = []  # time, shard, exclusive

    def clock(self) -> float:
        return self.now

    def free(self, exclusive: bool = False) -> int:
        return 0 if exclusive and self.ends else self.slots - len(self.ends)

    def can_copy(self, shard: Shard) -> bool:
        return bool(self.free())

    def submit(self, shard: Shard, exclusive: bool = False) -> None:
        assert self.free(exclusive)
        seconds, error = self.script[shard].pop(0) if self.script.get(shard) else (1.0, None)
        heapq.heappush(self.ends, (self.now + seconds, len(self.log), shard, error))
        self.log.append((self.now, shard, exclusive))

    def wait(self, timeout: float | None = None) -> list[ShardResult]:
        if not self.ends or (timeout is not None and self.ends[0][0] > self.now + timeout):
            self.now += timeout or 0
            return []
        self.now, _, shard, error = heapq.heappop(self.ends)
        if error:
            return [ShardResult(shard, error=error, shared_loss=bool(self.ends))]
        return [ShardResult(shard, ShardReport(shard.name, 2, 20, 1.5, {"NoAudio": 1}))]


def play(
    pool: ScriptedPool,
    should_stop: Callable[[], bool] = lambda: False,
    shards: list[Shard] = SHARDS,
    **settings,
):
    events: list[Event] = []
    chosen = RunSettings(**settings)
    run(shards, pool, chosen, events.append, clock=pool.clock, should_stop=should_stop)
    return events


def failing(*errors: Exception) -> dict[Shard, list[tuple[float, Exception | None]]]:
    return {SHARDS[0]: [(1.0, error) for error in errors]}


def kinds(events: list[Event], shard: Shard = SHARDS[0]) -> list[str]:
    return [event.kind for event in events if event.shard == shard]


def test_every_shard_is_committed_once():
    events = play(ScriptedPool({}))
    assert sorted(event.shard.url for event in events) == [s.url for s in SHARDS]
    assert {event.kind for event in events} == {"committed"}


def test_a_temporary_fault_is_retried_and_then_committed():
    events = play(ScriptedPool(failing(StreamBroken("killed"), WorkerLost("killed"))))
    assert kinds(events) == ["retry", "retry", "committed"]
    assert events[-1].attempts == 3


def test_while_a_shard_waits_for_its_next_attempt_the_others_run():
    pool = ScriptedPool(failing(StreamBroken("x"), StreamBroken("y")), slots=1)
    events = play(pool)
    starts = [time for time, shard, _ in pool.log if shard == SHARDS[0]]
    waits = [event.delay for event in events if event.kind == "retry"]
    assert starts[1] >= 1.0 + waits[0]
    assert starts[2] >= starts[1] + 1.0 + waits[1]
    assert [time for time, shard, _ in pool.log if shard != SHARDS[0]][:2] == [1.0, 2.0]


def test_a_shard_with_a_permanent_fault_is_given_up_on_and_the_others_go_on():
    events = play(ScriptedPool(failing(*[StreamBroken("killed")] * 9)))
    assert kinds(events) == ["retry", "retry", "give up"]
    assert len([e for e in events if e.kind == "committed"]) == len(SHARDS) - 1


@pytest.mark.parametrize("error", [StorageFull("disk"), CheckpointError("weights")])
def test_an_error_that_would_fail_every_shard_ends_the_run(error):
    with pytest.raises(type(error)):
        play(ScriptedPool(failing(error)))


def test_a_shard_on_preempted_nodes_is_not_given_up_on():
    events = play(ScriptedPool(failing(*[NodeLost("spot")] * 12)))
    assert kinds(events) == ["retry"] * 12 + ["committed"]


def test_a_shard_that_kills_workers_runs_alone_and_costs_no_other_shard():
    poison = SHARDS[3]

    class Fragile(ScriptedPool):
        def wait(self, timeout=None):
            results = super().wait(timeout)
            if not results or results[0].shard != poison:
                return results
            lost = [poison, *(shard for _, _, shard, _ in self.ends)]
            self.ends.clear()
            return [ShardResult(s, None, WorkerLost("crash"), len(lost) > 1) for s in lost]

    pool = Fragile({poison: [(0.5, None)] * 99}, slots=8)
    events = play(pool)
    assert [e.shard for e in events if e.kind == "give up"] == [poison]
    assert len({e.shard for e in events if e.kind == "committed"}) == len(SHARDS) - 1
    assert any(exclusive for _, shard, exclusive in pool.log if shard == poison)


def test_a_shard_on_a_slow_node_runs_a_second_time_at_the_tail_and_is_committed_once():
    pool = ScriptedPool({SHARDS[7]: [(10_000.0, None)]})
    events = play(pool, straggler_seconds=30.0)
    assert kinds(events, SHARDS[7]) == ["copy", "committed"]
    assert pool.now < 60


def test_a_copy_on_another_slow_node_is_copied_once_more_but_not_for_ever():
    slow = (10_000.0, None)
    pool = ScriptedPool({SHARDS[7]: [slow, slow]}, slots=9)
    events = play(pool, straggler_seconds=30.0)
    assert kinds(events, SHARDS[7]) == ["copy", "copy", "committed"]
    assert pool.now < 60
    pool = ScriptedPool({SHARDS[7]: [slow] * 9}, slots=9)
    assert kinds(play(pool, straggler_seconds=30.0), SHARDS[7]) == ["copy", "copy", "committed"]
    assert pool.now == 10_000.0


def test_slow_shards_that_end_last_do_not_change_what_counts_as_slow():
    shards = [Shard(f"{i}.tar", 1, "e") for i in range(400)]
    slow = {shard: [(100.0, None)] for shard in shards[-150:-1]}
    pool = ScriptedPool(slow | {shards[-1]: [(10_000.0, None)]}, slots=149 + 150)
    events = play(pool, shards=shards, straggler_seconds=110.0)
    assert kinds(events, shards[-1]) == ["copy", "committed"]
    assert pool.now < 120


def test_a_copy_that_fails_costs_nothing_while_the_other_one_runs():
    pool = ScriptedPool({SHARDS[7]: [(50.0, None), (1.0, WorkerLost("x"))]})
    events = play(pool, straggler_seconds=10.0)
    assert kinds(events, SHARDS[7])[0] == "copy"
    assert kinds(events, SHARDS[7])[-1] == "committed"
    assert not any(event.error for event in events)


def test_a_run_that_is_stopped_finishes_the_shards_in_flight_and_starts_no_other():
    pool = ScriptedPool({SHARDS[0]: [(15.0, None)]})
    with pytest.raises(RunStopped):
        play(pool, should_stop=lambda: pool.now >= 2)
    assert pool.now == 15.0
    assert len(pool.log) == 3


def test_shards_that_do_not_end_within_the_grace_time_are_dropped():
    pool = ScriptedPool({shard: [(1000.0, None)] for shard in SHARDS})
    with pytest.raises(RunStopped):
        play(pool, should_stop=lambda: pool.now >= 5, grace_seconds=20.0)
    assert pool.now == pytest.approx(25, abs=1.0)


def test_totals_add_up():
    totals = Totals()
    script = {SHARDS[0]: [(1.0, ShardCut("x"))], SHARDS[1]: [(1.0, StreamBroken("y"))]}
    for event in play(ScriptedPool(script)):
        totals.add(event)
    assert (totals.shards, totals.failed, totals.retries) == (7, 1, 1)
    assert (totals.rows, totals.frames, totals.audio_seconds) == (14, 140, 10.5)
    assert totals.rejects == {"NoAudio": 7}
