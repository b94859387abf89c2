import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask
from torch.utils.data import DataLoader

from speechmill.pipeline.dataset.patterns import make_pattern
from speechmill.pipeline.dataset.reader import (
    TokenReader,
    collate,
    document_mask,
    document_mask_mod,
    labels,
)
from speechmill.pipeline.dataset.reader.feed import Drawn
from speechmill.pipeline.dataset.reader.packing import PADDING, Long, Packer
from speechmill.pipeline.dataset.reader.state import Place
from speechmill.pipeline.dataset.templates import PatternEncoder, make_template
from tests.token_parts import make_token_dataset

SIZES = (1024,) * 8
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=20)


def pack(lengths, size, long="split", streams=None):
    """Sequences of documents whose ids count up through all of them."""
    ends = np.cumsum(lengths)
    ids = [np.arange(end - n, end, dtype=np.int32) for end, n in zip(ends, lengths, strict=True)]
    if streams:
        ids = [np.stack([each] * streams, axis=1) for each in ids]
    place = Place(0)
    drawn = (Drawn(place, i, each, len(each), 0) for i, each in enumerate(ids))
    return list(Packer(size, Long(long), pad_id=7).sequences(drawn))


def documents(sequence) -> list[list[int]]:
    """The documents of a sequence, by its boundaries."""
    ids, bounds = sequence["input_ids"].tolist(), sequence["cu_seqlens"].tolist()
    found = [ids[start:stop] for start, stop in itertools.pairwise(bounds)]
    return found[:-1] if sequence["document_ids"][-1] == PADDING else found


@given(LENGTHS, st.integers(1, 50))
def test_split_documents_come_whole_when_their_pieces_are_joined(lengths, size):
    sequences = pack(lengths, size)
    ids = [i for sequence in sequences for each in documents(sequence) for i in each]
    assert ids == list(range(sum(lengths)))
    assert len(sequences) == -(-sum(lengths) // size)
    assert all((s["document_ids"] != PADDING).all() for s in sequences[:-1])


@given(LENGTHS, st.integers(1, 50), st.sampled_from(["cut", "drop"]))
def test_documents_that_are_not_split_stand_whole_in_one_sequence(lengths, size, long):
    starts = np.cumsum(lengths) - lengths
    wanted = [list(range(s, s + min(n, size))) for s, n in zip(starts, lengths, strict=True)]
    kept = [w for w, n in zip(wanted, lengths, strict=True) if long == "cut" or n <= size]
    assert [d for sequence in pack(lengths, size, long) for d in documents(sequence)] == kept


@given(LENGTHS, st.integers(2, 50))
def test_boundaries_positions_and_documents_say_the_same(lengths, size):
    for sequence in pack(lengths, size):
        bounds = sequence["cu_seqlens"]
        assert bounds.dtype == torch.int32
        assert (bounds[0], bounds[-1]) == (0, size)
        sizes = bounds.diff().tolist()
        assert sequence["max_seqlen"] == max(sizes)
        assert sequence["position_ids"].tolist() == [i for n in sizes for i in range(n)]
        names = [*range(len(sizes))]
        if sequence["document_ids"][-1] == PADDING:
            names[-1] = PADDING
        expected = np.repeat(names, sizes).tolist()
        assert sequence["document_ids"].tolist() == expected


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(-1, 2), min_size=1, max_size=9))
def test_the_masks_are_causal_within_each_document(names):
    length = len(names)
    expected = [[names[q] == names[k] and k <= q for k in range(length)] for q in range(length)]
    ids = torch.tensor([names])
    assert document_mask(ids)[0, 0].tolist() == document_mask(ids[0]).tolist() == expected
    flex = create_mask(document_mask_mod(ids), 1, 1, length, length, device="cpu")
    assert flex[0, 0].tolist() == expected


def test_attention_under_the_mask_is_that_of_each_document_alone():
    sequence = pack([3, 5, 2], 12)[0]
    query = torch.randn(1, 1, 12, 4, dtype=torch.float64)
    attend = torch.nn.functional.scaled_dot_product_attention
    whole = attend(query, query, query, attn_mask=document_mask(sequence["document_ids"][None]))
    bounds = sequence["cu_seqlens"].tolist()
    for start, stop in itertools.pairwise(bounds):
        own = query[:, :, start:stop]
        torch.testing.assert_close(whole[:, :, start:stop], attend(own, own, own, is_causal=True))


def test_labels_leave_out_padding_and_the_first_id_of_each_document():
    sequence = pack([3, 2], 7)[0]
    found = labels(sequence["input_ids"], sequence["document_ids"])
    assert found.tolist() == [-100, 1, 2, -100, 4, -100, -100]
    rows = pack([3, 2], 7, streams=2)[0]
    assert labels(rows["input_ids"], rows["document_ids"])[:, 1].tolist() == found.tolist()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("out"))
    return make_token_dataset(root, [[3, 5, 2, 9], [4] * 7], rows_per_group=3)


def test_templates_give_the_text_and_the_codes_of_every_row(dataset):
    template = make_template(make_pattern("flatten", SIZES), "before")
    reader = TokenReader(dataset, template, 64)
    ids = torch.cat([s["input_ids"][s["document_ids"] >= 0] for s in reader])
    rows = {row["text"]: row["codes"] for row in TokenReader(dataset)}
    segments = template.segments_of(ids.numpy())
    texts, codes = segments[::2], segments[1::2]
    assert len(texts) == reader.num_rows == 11
    assert all(text in rows for text in texts)
    assert sum(map(len, codes)) == sum(len(row["codes"]) for row in TokenReader(dataset))


def test_the_segments_of_a_recording_stay_together_in_an_interleaved_template(tmp_path):
    segmented = make_token_dataset(str(tmp_path), [[2] * 8, [3] * 6], rows_per_group=4, segments=2)
    template = make_template(make_pattern("flatten", SIZES), "interleaved")
    sequences = TokenReader(segmented, template, 90, shuffle_rows=6)
    texts = template.texts_of(
        torch.cat([s["input_ids"][s["document_ids"] >= 0] for s in sequences])
    )
    recordings = sorted(zip(texts[::2], texts[1::2], strict=True))
    assert recordings == sorted((f"row {i}", f"row {i + 1}") for i in [0, 2, 4, 6, 0, 2, 4])


def test_patterns_of_streams_are_packed_by_rows(dataset):
    encoder = PatternEncoder(make_pattern("delay", SIZES))
    sequences = list(TokenReader(dataset, encoder, 16, shuffle_rows=None))
    assert {tuple(s["input_ids"].shape) for s in sequences} == {(16, 8)}
    rows = np.concatenate([s["input_ids"][s["document_ids"] >= 0] for s in sequences])
    first = next(iter(TokenReader(dataset, shuffle_rows=None)))["codes"]
    assert encoder.pattern.decode(rows[: 3 + 7]).tolist() == first.tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_a_loader_makes_batches(dataset, packed):
    arguments = (PatternEncoder(make_pattern("flatten", SIZES)), 32) if packed else ()
    reader = TokenReader(dataset, *arguments)
    batch = next(iter(DataLoader(reader, batch_size=4, collate_fn=collate)))
    if packed:
        assert batch["input_ids"].shape == batch["document_ids"].shape == (4, 32)
        assert batch["cu_seqlens"][-1] == 4 * 32
        assert {32, 64, 96} <= set(batch["cu_seqlens"].tolist())
    else:
        frames = int(batch["num_frames"].max())
        assert batch["codes"].shape == (4, frames, 8)
        assert batch["codes"].dtype == torch.int64
        assert len(batch["key"]) == len(batch["text"]) == 4
