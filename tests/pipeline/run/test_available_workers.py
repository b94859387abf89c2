"""The choice of a worker, compared with a look at all of them."""

import random

import pytest

from speechmill.pipeline.run.available_workers import AvailableWorkers

SLOTS = 4


class Worker:
    held = 0


@pytest.fixture(params=range(20))
def states(request):
    """Some workers, the available ones, and what `AvailableWorkers` knows, after each change."""
    chance = random.Random(request.param)
    workers = [Worker() for _ in range(chance.choice((1, 5, 30)))]
    available: set[Worker] = set()
    known = AvailableWorkers[Worker](SLOTS)

    def changes():
        for _ in range(200):
            worker = chance.choice(workers)
            if chance.random() < 0.3:
                (available.discard if worker in available else available.add)(worker)
                (known.add if worker in available else known.discard)(worker)
            else:
                known.hold(worker, chance.randint(0, SLOTS) - worker.held)
            besides = set(chance.sample(workers, k=min(2, len(workers))))
            yield available, known, besides

    return changes()


def test_the_chosen_worker_is_least_loaded_and_does_not_hold_the_shard(states):
    for available, known, besides in states:
        able = [w for w in available if w.held < SLOTS and w not in besides]
        chosen = known.least_loaded(besides)
        assert (chosen in able) if able else chosen is None
        assert not able or chosen.held == min(worker.held for worker in able)


def test_free_slots_and_workers_without_shards_are_those_of_available_workers(states):
    for available, known, _ in states:
        assert set(known) == available
        assert len(known) == len(available)
        assert known.free_slots() == sum(SLOTS - worker.held for worker in available)
        assert known.without_shards() == sum(not worker.held for worker in available)


def test_equal_workers_take_turns():
    known = AvailableWorkers[Worker](SLOTS)
    workers = [Worker() for _ in range(3)]
    for worker in workers:
        known.add(worker)
    chosen = []
    for _ in range(3 * SLOTS):
        chosen.append(known.least_loaded())
        known.hold(chosen[-1], 1)
    assert chosen == workers * SLOTS
    assert known.least_loaded() is None
