from hypothesis import given
from hypothesis import strategies as st

from speechmill.pipeline.retry import Backoff


@given(st.integers(1, 10_000), st.text())
def test_waits_double_up_to_a_limit_and_are_the_same_in_every_run(attempt, key):
    backoff = Backoff(first=1.0, longest=60.0)
    whole = min(60.0, 2.0 ** min(attempt - 1, 10))
    assert whole / 2 <= backoff.delay(key, attempt) < whole
    assert backoff.delay(key, attempt) == Backoff(1.0, 60.0).delay(key, attempt)


def test_shards_that_fail_together_are_retried_at_different_times():
    delays = {round(Backoff(1.0, 60.0).delay(f"shard-{n}", 3), 3) for n in range(100)}
    assert len(delays) > 90
