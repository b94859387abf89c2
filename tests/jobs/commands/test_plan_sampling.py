"""The estimator of `plan`: what a sample of shards says about all of them."""

import random
from dataclasses import fields

import pytest

from speechmill.jobs.commands.plan.forecast import (
    Prices,
    finish_time,
    forecast_codec,
    forecast_run,
)
from speechmill.jobs.commands.plan.probe import Place, Probe
from speechmill.jobs.commands.plan.sampling import (
    Estimate,
    Observed,
    Stratum,
    agreed,
    estimate_sum,
    probing_order,
    stratify,
)
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.probed import ProbedCodec, ProbedShard
from speechmill.pipeline.tokenize.writer import ShardReport


def corpus(seed: int, count: int = 200) -> dict[int, tuple[int, float]]:
    """Sizes that differ by orders of magnitude, and values that grow with them, with noise."""
    chance = random.Random(seed)
    sizes = [1 + int(chance.lognormvariate(17, 0.8)) for _ in range(count)]
    return {n: (size, size * max(0.1, chance.gauss(1, 0.3))) for n, size in enumerate(sizes)}


def estimate(shards: dict[int, tuple[int, float]], probed: int, seed: int = 0) -> Estimate:
    groups = stratify(list(shards), lambda shard: shards[shard][0])
    chosen = set(probing_order(groups, seed)[:probed])
    return estimate_sum(
        [
            Stratum(
                len(group),
                sum(shards[n][0] for n in group),
                tuple(Observed(shards[n][0], *shards[n]) for n in group if n in chosen),
            )
            for group in groups
        ]
    )


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_an_estimate_is_exact_when_all_shards_are_read_to_their_end(count):
    shards = corpus(1, count)
    found = estimate(shards, count)
    assert found.value == pytest.approx(sum(value for _, value in shards.values()), rel=1e-9)
    assert found.error == 0


@pytest.mark.parametrize("probed", [8, 16, 40])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(probed):
    hits = 0
    for seed in range(300):
        shards = corpus(seed)
        found, truth = estimate(shards, probed, seed), sum(v for _, v in shards.values())
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
    assert 0.84 <= hits / 300 <= 0.99


def test_strata_hold_as_many_bytes_each_and_take_turns():
    shards = corpus(2)
    groups = stratify(list(shards), lambda shard: shards[shard][0])
    bytes_of = [sum(shards[n][0] for n in group) for group in groups]
    assert len(groups) == 4
    assert max(bytes_of) < 1.5 * min(bytes_of)
    order = probing_order(groups)
    assert sorted(order) == sorted(shards)
    first = [next(k for k, group in enumerate(groups) if n in group) for n in order[:8]]
    assert first == [0, 1, 2, 3, 0, 1, 2, 3]
    assert order == probing_order(groups)


def test_a_giant_among_small_shards_is_probed_in_the_first_turn_and_has_an_error():
    sizes = dict(enumerate([100] * 30 + [90_000]))
    groups = stratify(list(sizes), lambda n: sizes[n])
    assert (len(groups), groups[-1]) == (5, [30])
    assert 30 in probing_order(groups)[:5]
    small = (Observed(100, 100, 200.0), Observed(100, 100, 100.0), Observed(100, 100, 150.0))
    cut = Stratum(1, 90_000, (Observed(90_000, 3000, 3000.0),))
    found = estimate_sum([Stratum(30, 3000, small), cut])
    assert found.value == pytest.approx(90_000 + 30 * 150, rel=0.01)
    assert found.relative
    assert estimate_sum([cut]).error is None


def test_a_shard_that_was_cut_stands_for_its_rest_with_an_unknown_error():
    found = estimate_sum([Stratum(1, 1000, (Observed(1000, 250, 40.0, fixed=10.0),))])
    assert (found.value, found.error) == (10 + 30 * 4, None)


def test_two_cut_shards_have_an_error_although_all_shards_were_probed():
    observed = (Observed(1000, 250, 10.0), Observed(1000, 250, 12.0))
    found = estimate_sum([Stratum(2, 2000, observed)])
    assert found.value == 88
    assert found.error


def test_one_probed_shard_and_none_have_no_error_bar():
    assert estimate_sum([Stratum(5, 500, (Observed(100, 100, 7.0),))]) == Estimate(35.0, None)
    assert estimate_sum([Stratum(5, 500, ())]) == Estimate(0.0, None)


def test_finished_parts_sharpen_an_estimate_unless_they_contradict_it():
    both, fit = agreed(Estimate(100, 10), Estimate(104, 5))
    assert fit
    assert both.error < 5
    assert 100 < both.value < 104
    assert agreed(Estimate(100, 10), Estimate(150, 5)) == (Estimate(100, 10), False)
    assert agreed(Estimate(100, 0.0), Estimate(104, 5)) == (Estimate(100, 0.0), True)
    assert agreed(Estimate(100, None), Estimate(104, 5)) == (Estimate(104, 5), True)


def probe_on_gpu(cores: float) -> Probe:
    """Two whole shards of 100 s each, encoded in 1 s and decoded in 4 s."""
    shards = [Shard(f"s3://b/{n}.tar", 1000, "x") for n in range(2)]
    report = ShardReport("x", 10, 50, 100.0, {}, encode_seconds=1.0, decode_cpu_seconds=4.0)
    codecs = {0: ProbedCodec(report, 500, 0.0, 0)}
    facts = {field.name: getattr(report, field.name) for field in fields(ShardReport)}
    part = ProbedShard(
        **facts, bytes_read=1000, whole=True, warm=True, device="H200", codecs=codecs
    )
    return Probe([shards], dict.fromkeys(shards, part), place=Place("H200", cores, False))


@pytest.mark.parametrize(("cores", "seconds"), [(16, 2.0), (2, 4.0)])
def test_a_gpu_is_as_fast_as_its_codec_if_enough_cores_decode(cores, seconds):
    probe = probe_on_gpu(cores)
    codec = forecast_codec(probe, 0, set(probe.parts), None)
    run = forecast_run(probe, [codec], [list(probe.parts)], "s3://b/out")
    assert (run.decode_cores, run.walls[0].seconds) == (4.0, Estimate(seconds, 0.0))
    assert run.walls[1].seconds == Estimate(seconds / 2, 0.0)  # 8 GPUs, of which 2 have a shard
    prices = Prices(gpu_hour=3.6, core_hour=0.36, million_requests=0.0)
    assert run.cost(run.walls[0], prices) == pytest.approx(seconds * (3.6 + 5 * 0.36) / 3600)


def test_a_run_ends_between_its_bounds_and_not_before_its_longest_shard():
    tasks = [size / 1e7 for size, _ in corpus(3, 100).values()]
    assert finish_time(tasks, 1) == pytest.approx(sum(tasks))
    for workers in (2, 8, 64, 512):
        lower = max(sum(tasks) / workers, max(tasks))
        assert lower <= finish_time(tasks, workers) <= sum(tasks) / workers + max(tasks)
