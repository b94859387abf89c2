"""The reader in the loaders of PyTorch and torchdata, with and without worker processes."""

import pickle
import warnings
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from speechmill.pipeline.dataset.patterns import make_pattern
from speechmill.pipeline.dataset.reader import TokenReader, collate, merge_states
from speechmill.pipeline.dataset.templates import PatternEncoder
from speechmill.pipeline.storage import Storage
from tests.token_parts import make_token_dataset

ROWS = [[3, 5, 2, 9], [4] * 7, [1, 2, 3, 7, 1], [6, 6, 1]]
ALL = sorted(f"{part}-{row}" for part, rows in enumerate(ROWS) for row in range(len(rows)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_token_dataset(str(tmp_path_factory.mktemp("out")), ROWS, rows_per_group=3)


def loader(reader, workers, **settings) -> StatefulDataLoader:
    settings = {"batch_size": 2, "collate_fn": collate, "num_workers": workers, **settings}
    return StatefulDataLoader(reader, **settings)


def keys(batches) -> list[str]:
    return [key for batch in batches for key in batch["key"]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_a_stateful_loader_continues_at_the_next_batch(dataset, workers, packed):
    arguments = (PatternEncoder(make_pattern("flatten", (1024,) * 8)), 24) if packed else ()
    name = "input_ids" if packed else "codes"
    whole = [batch[name].tolist() for batch in loader(TokenReader(dataset, *arguments), workers)]
    stopped = loader(TokenReader(dataset, *arguments), workers)
    first = [batch[name].tolist() for batch in islice(stopped, 5)]
    state = pickle.loads(pickle.dumps(stopped.state_dict()))
    again = loader(TokenReader(dataset, *arguments), workers)
    again.load_state_dict(state)
    assert first + [batch[name].tolist() for batch in again] == whole


def test_the_states_of_loaders_with_workers_continue_under_another_number(dataset):
    states, found = [], []
    for rank in range(2):
        one = loader(TokenReader(dataset, rank=rank, world_size=2), 2)
        found += keys(islice(one, 1 + rank))
        states.append({"model": torch.zeros(2), "data": [one.state_dict()]})
    reader = TokenReader(dataset)
    reader.load_state_dict(merge_states(states))
    found += keys(loader(reader, 0))
    assert sorted(found) == ALL


def test_workers_that_live_on_see_the_next_epoch(dataset):
    reader = TokenReader(dataset)
    lasting = DataLoader(
        reader, batch_size=2, collate_fn=collate, num_workers=2, persistent_workers=True
    )
    epochs = []
    for epoch in range(2):
        reader.set_epoch(epoch)
        epochs.append(keys(lasting))
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == ALL


def test_an_epoch_after_a_loaded_one_is_whole(dataset):
    stopped = loader(TokenReader(dataset), 0)
    first = keys(islice(stopped, 3))
    reader = TokenReader(dataset)
    again = loader(reader, 0)
    again.load_state_dict(stopped.state_dict())
    assert sorted(first + keys(again)) == ALL
    assert sorted(keys(again)) == ALL  # as with workers, which know nothing of the state by now
    reader.set_epoch(1)
    assert sorted(keys(again)) == ALL


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_that_was_saved_after_an_epoch_begins_the_next(dataset, workers):
    reader = TokenReader(dataset)
    whole = loader(reader, workers)
    assert sorted(keys(whole)) == ALL
    saved, again = whole.state_dict(), TokenReader(dataset)
    following = loader(again, workers)
    following.load_state_dict(saved)
    for each in (reader, again):
        each.set_epoch(1)
    assert keys(following) == keys(whole)
    assert merge_states([saved])["bases"] == [{"epoch": 1, "taken": {}}]  # nothing of epoch 0 left


def test_spawned_workers_get_the_same_rows(dataset):
    reader = TokenReader(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied = pickle.loads(pickle.dumps(reader))  # as spawn sends it
        assert [item["key"] for item in copied] == [item["key"] for item in reader]


def test_forked_workers_read_an_object_store_that_their_parent_has_read(moto, moto_bucket):
    storage = Storage({"s3": moto.storage_options})
    root = f"{moto_bucket}/tokens-of-null"
    make_token_dataset(root, ROWS, storage, rows_per_group=3)
    reader = TokenReader(root, storage=storage)
    assert next(iter(reader))["codes"].dtype == torch.uint16
    batches = DataLoader(
        reader, 2, collate_fn=collate, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    assert sorted(keys(batches)) == ALL
