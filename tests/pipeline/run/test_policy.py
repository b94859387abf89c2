import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.codecs import CheckpointError
from speechmill.pipeline.errors import (
    BucketNotFound,
    DeviceBroken,
    DeviceWrong,
    NodeLost,
    ShardCut,
    StorageDenied,
    StorageFull,
    StorageNotFound,
    StorageUnavailable,
    StreamBroken,
    WorkerLost,
)
from speechmill.pipeline.run.policy import Action, Failures, RunSettings, decide

SETTINGS = RunSettings()


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (WorkerLost(""), Action.RETRY),
        (NodeLost(""), Action.RETRY),
        (DeviceBroken(""), Action.RETRY),
        (DeviceWrong(""), Action.RETRY),
        (StreamBroken(""), Action.RETRY),
        (StorageUnavailable(""), Action.GIVE_UP),  # storage has retried it
        (StorageNotFound(""), Action.GIVE_UP),
        (ShardCut(""), Action.GIVE_UP),
        (ValueError(""), Action.GIVE_UP),
        (StorageDenied(""), Action.ABORT),
        (BucketNotFound(""), Action.ABORT),
        (StorageFull(""), Action.ABORT),
        (CheckpointError(""), Action.ABORT),
    ],
)
def test_the_policy_of_a_first_failure(error, action):
    decision = decide(error, Failures().after(error, False), SETTINGS, "a")
    assert decision.action is action
    assert decision.reason


def test_a_worker_that_computes_wrongly_is_not_the_fault_of_its_shards():
    failures = Failures()
    for _ in range(SETTINGS.max_attempts + 1):
        failures = failures.after(DeviceWrong(""), False)
    assert decide(DeviceWrong(""), failures, SETTINGS, "a").action is Action.RETRY


@given(st.lists(st.sampled_from([WorkerLost(), NodeLost(), StreamBroken(), DeviceBroken()])))
def test_attempts_are_limited_and_dying_nodes_are_not_the_fault_of_a_shard(errors):
    failures = Failures()
    for error in errors:
        failures = failures.after(error, shared_loss=False)
        gives_up = decide(error, failures, SETTINGS, "a").action is Action.GIVE_UP
        own = failures.total - failures.with_node
        assert gives_up == (own >= SETTINGS.max_attempts or failures.total >= SETTINGS.max_losses)
