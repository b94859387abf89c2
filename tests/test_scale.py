"""docs/guide/scale.md says what its formulas give, and they are those of a plan and of a run."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from speechmill.jobs.commands.plan import forecast
from speechmill.pipeline.shards.listing import Shard
from tests.bench.simulated_ray import World
from tests.conftest import REPOSITORY
from tests.test_docs import module_of

SCALE = module_of(REPOSITORY / "docs/guide/scale.py")


def test_the_tables_are_what_the_formulas_give():
    page = SCALE.PAGE.read_text()
    assert SCALE.filled(page, SCALE.Plan()) == page, "run `python docs/guide/scale.py`"


def test_requests_are_those_of_a_plan_but_for_the_few_of_the_run_itself():
    plan = SCALE.Plan(hours=20_000, shard_mb=300.0)
    shards = [Shard(f"s3://a/{n}.tar", 300_000_000, "e") for n in range(plan.shards)]
    no_rejects = SimpleNamespace(rejecting_shards=SimpleNamespace(value=0))
    soon = SimpleNamespace(seconds=SimpleNamespace(value=0.0))
    planned = forecast._requests(shards, [no_rejects], [shards], "s3://b/out", soon)
    for name in ("get", "head", "list", "put"):
        assert 0 <= getattr(planned, name) - getattr(plan.requests, name) < 20, name


def test_repeated_work_and_absence_are_those_of_the_simulation():
    equal_shards = World(spread=0.0, slow_nodes=0.0)
    plan = SCALE.Plan()
    per_second = plan.losses / 3600
    assert equal_shards.repeated_share == pytest.approx(per_second * equal_shards.shard_seconds / 2)
    assert plan.repeated == pytest.approx(per_second * plan.shard_seconds / 2)
    assert plan.absent == equal_shards.absent_share


@pytest.mark.parametrize("speed", [100.0, 5_000.0])
def test_twice_the_speed_takes_half_the_gpu_hours_and_twice_the_cores_that_decode(speed):
    one, two = (SCALE.Plan(speed=each) for each in (speed, 2 * speed))
    assert one.gpu_hours == 2 * two.gpu_hours
    assert two.cores - 1 == pytest.approx(2 * (one.cores - 1))
    assert replace(one, gpus=2 * one.gpus).wall_hours == pytest.approx(one.wall_hours / 2)
