"""The driver of a run on a simulated cluster: it loses nothing, and its simulation is right."""

import pytest

from speechmill.pipeline.run.ray_workers import _HEARTBEATS
from tests.bench.scheduler import simulate
from tests.bench.simulated_ray import World


def test_each_shard_ends_once_although_nodes_leave_processes_die_and_some_are_slow():
    world = World(workers=64, failures=0.05, slow_nodes=0.2, losses=4.0)
    found = simulate(1000, world)  # asserts that each ended once
    assert found.ray.lost_nodes > 3
    assert found.totals.retries > 50
    assert found.display.copies > 0


def test_work_that_is_repeated_after_lost_nodes_is_that_of_the_formula():
    world = World(workers=32, failures=0, slow_nodes=0, losses=4.0, return_seconds=30.0)
    ray = simulate(2500, world, copies=False).ray
    age = world.moment(2) / (2 * world.moment(1))
    assert ray.lost_shards > 100
    assert ray.repeated_seconds / ray.lost_shards == pytest.approx(age, rel=0.3)


def test_copies_shorten_the_tail_of_a_run_with_slow_nodes():
    world = World(workers=64, failures=0, slow_nodes=0.3, slowness=20.0, losses=0, seed=1)
    with_copies, without = (simulate(600, world, copies=copies) for copies in (True, False))
    assert with_copies.ray.now < 0.7 * without.ray.now


def test_heartbeats_do_not_grow_to_one_of_each_worker_in_a_second():
    world = World(workers=448, failures=0, slow_nodes=0, losses=0)
    found = simulate(3000, world)
    assert 0 < found.ray.calls["call_heartbeat"] / found.ray.now <= _HEARTBEATS < world.workers
