import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.codecs import CheckpointError
from speechmill.pipeline.errors import (
    BucketNotFound,
    DeviceBroken,
    NodeLost,
    ShardCut,
    StorageDenied,
    StorageFull,
    StorageNotFound,
    StorageUnavailable,
    StreamBroken,
    WorkerLost,
)
from speechmill.pipeline.retry import Backoff
from speechmill.pipeline.run.policy import Action, Failures, RunSettings, decide

SETTINGS = RunSettings()


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (WorkerLost(""), Action.RETRY),
        (NodeLost(""), Action.RETRY),
        (DeviceBroken(""), Action.RETRY),
        (StreamBroken(""), Action.RETRY),
        (StorageUnavailable(""), Action.GIVE_UP),  # storage has had its own tries
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


@given(st.lists(st.sampled_from([WorkerLost(), NodeLost(), StreamBroken(), DeviceBroken()])))
def test_attempts_are_limited_and_dying_nodes_are_not_the_fault_of_a_shard(errors):
    failures = Failures()
    for error in errors:
        failures = failures.after(error, shared_loss=False)
        gives_up = decide(error, failures, SETTINGS, "a").action is Action.GIVE_UP
        own = failures.total - failures.with_node
        assert gives_up == (own >= SETTINGS.max_attempts or failures.total >= SETTINGS.max_losses)


@given(st.integers(1, 10_000), st.text())
def test_waits_double_up_to_a_limit_and_are_the_same_in_every_run(attempt, key):
    backoff = Backoff(first=1.0, longest=60.0)
    whole = min(60.0, 2.0 ** min(attempt - 1, 10))
    assert whole / 2 <= backoff.delay(key, attempt) < whole
    assert backoff.delay(key, attempt) == Backoff(1.0, 60.0).delay(key, attempt)


def test_shards_that_fail_together_are_retried_at_different_times():
    delays = {round(Backoff(1.0, 60.0).delay(f"shard-{n}", 3), 3) for n in range(100)}
    assert len(delays) > 90
