import pytest

from speechmill.pipeline.run.diagnosis import find_bottleneck, timed
from speechmill.pipeline.tokenize.batching import ShardEnd


@pytest.mark.parametrize(
    ("stage", "times"),
    [
        ("encode", {"encode": 97, "starved": 3, "decode": 50, "decode_cpu": 45, "read": 9}),
        ("decode", {"encode": 50, "starved": 50, "decode": 100, "decode_cpu": 95, "read": 9}),
        ("storage", {"encode": 50, "starved": 50, "decode": 100, "decode_cpu": 20, "read": 75}),
        # Neither decoders that wait for a CPU nor those that unpack gzip wait for storage.
        ("decode", {"encode": 50, "starved": 50, "decode": 100, "decode_cpu": 20, "read": 1}),
        ("decode", {"encode": 50, "starved": 50, "decode": 100, "decode_cpu": 95, "read": 90}),
    ],
)
def test_the_stage_that_sets_the_pace_is_named_with_what_to_change(stage, times):
    found = find_bottleneck(**times)
    assert found.stage == stage
    assert "worker" in found.sentence


def test_a_run_that_encoded_nothing_has_no_bottleneck():
    assert find_bottleneck(0, 5, 5, 5, 0) is None


def test_the_end_of_a_shard_says_what_decoding_took():
    [end] = timed(iter([ShardEnd([], 0)]))
    assert end.decode_cpu_seconds >= 0
    assert end.decode_seconds > 0


def test_the_cpu_seconds_of_another_process_that_decodes_count():
    [end] = timed(iter([ShardEnd([], 0, decode_cpu_seconds=5.0)]))
    assert end.decode_cpu_seconds >= 5.0
