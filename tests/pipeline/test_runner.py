import pytest

from pipeline.errors import (
    ShardCut,
    StorageDenied,
    StorageFull,
    StorageNotFound,
    StorageUnavailable,
    WorkerLost,
)
from pipeline.policy import Action, decide
from pipeline.runner import Event, Outcome, Totals, run
from pipeline.shard import Shard
from pipeline.writer import ShardReport
from speech_codecs import CheckpointError

SHARDS = [Shard(f"{i}.tar", 1, "e") for i in range(5)]


class ScriptedPool:
    """Fails each shard with the errors written for it, in order, then succeeds."""

    def __init__(self, script: dict[Shard, list[Exception]], slots: int = 2):
        self.script = {shard: list(errors) for shard, errors in script.items()}
        self.slots = slots
        self.held: list[Shard] = []

    def free(self) -> int:
        return self.slots - len(self.held)

    def submit(self, shard: Shard) -> None:
        assert self.free()
        self.held.append(shard)

    def wait(self) -> list[Outcome]:
        shard = self.held.pop(0)
        if self.script.get(shard):
            return [Outcome(shard, error=self.script[shard].pop(0))]
        return [Outcome(shard, ShardReport(shard.name, 2, 20, 1.5, {"NoAudio": 1}))]


def played(script, max_attempts=3) -> list[Event]:
    events: list[Event] = []
    run(SHARDS, ScriptedPool(script), max_attempts, events.append)
    return events


def test_every_shard_is_committed_once():
    events = played({})
    assert sorted(event.shard.url for event in events) == [s.url for s in SHARDS]
    assert {event.kind for event in events} == {"committed"}


def test_a_passing_fault_is_retried_and_then_committed():
    events = played({SHARDS[0]: [StorageUnavailable("503"), WorkerLost("killed")]})
    assert [e.kind for e in events if e.shard == SHARDS[0]] == ["retry", "retry", "committed"]
    assert events[-1].attempts == 3


def test_a_fault_that_stays_is_given_up_on_and_the_others_go_on():
    events = played({SHARDS[0]: [WorkerLost("killed")] * 9})
    assert [e.kind for e in events if e.shard == SHARDS[0]] == ["retry", "retry", "give up"]
    assert len([e for e in events if e.kind == "committed"]) == 4


def test_a_full_disk_ends_the_run():
    with pytest.raises(StorageFull):
        played({SHARDS[2]: [StorageFull("disk")]})


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (StorageUnavailable(""), Action.RETRY),
        (WorkerLost(""), Action.RETRY),
        (StorageNotFound(""), Action.GIVE_UP),
        (ShardCut(""), Action.GIVE_UP),
        (ValueError(""), Action.GIVE_UP),
        (StorageDenied(""), Action.ABORT),
        (StorageFull(""), Action.ABORT),
        (CheckpointError(""), Action.ABORT),
    ],
)
def test_the_policy_of_a_first_failure(error, action):
    assert decide(error, 1, 3) is action


def test_totals_add_up():
    totals = Totals()
    for event in played({SHARDS[0]: [ShardCut("x")], SHARDS[1]: [WorkerLost("y")]}):
        totals.add(event)
    assert (totals.shards, totals.failed, totals.retries) == (4, 1, 1)
    assert (totals.rows, totals.frames, totals.audio_seconds) == (8, 80, 6.0)
    assert totals.rejects == {"NoAudio": 4}
