"""The use of CUDA graphs, with calls that are recorded in the place of graphs."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from speechmill.codecs.cuda_graphs import GraphedEncoder
from tests.codecs.cases import loaded
from tests.codecs.speech import padded, speech

CPU = torch.device("cpu")


class Recorded:
    """A call that is computed again at each replay, into the memory of its first result."""

    def __init__(self, compute: Callable[[], Tensor]) -> None:
        self.compute = compute
        self.codes_BKF = compute().clone()
        self.replays = 0

    def replay(self) -> None:
        self.codes_BKF.copy_(self.compute())
        self.replays += 1


class Recorder:
    def __init__(self) -> None:
        self.calls: list[Recorded] = []

    def __call__(self, compute: Callable[[], Tensor]) -> Recorded:
        self.calls.append(Recorded(compute))
        return self.calls[-1]


def batch(seed: int, *lengths: int) -> tuple[Tensor, Tensor]:
    return padded([speech(length, seed=seed + i) for i, length in enumerate(lengths)])


@pytest.mark.parametrize("case", ["pure", "simwhisper"])
def test_a_replay_computes_the_codes_of_the_batch_that_it_is_given(case: str) -> None:
    codec, record = loaded(case, masked=True), Recorder()
    encode = GraphedEncoder(codec.encode_padded, CPU, 2 * 9_000, record)  # type: ignore[attr-defined]
    for seed in range(4):
        audio_BT, lengths_B = batch(seed, 9_000, 7_000 + seed)
        codes_BKF = encode(audio_BT, lengths_B)
        frames = codec.info.num_frames(9_000)
        assert torch.equal(codes_BKF[..., :frames], codec.encode(audio_BT, lengths_B))
    [graph] = record.calls
    assert graph.replays == 4


def test_each_shape_has_a_graph_of_its_own() -> None:
    codec, record = loaded("pure", masked=True), Recorder()
    encode = GraphedEncoder(codec.encode_padded, CPU, 3 * 9_000, record)  # type: ignore[attr-defined]
    for lengths in 3 * [(9_000, 8_000), (6_000, 5_000, 4_000)]:
        expected_BKF = codec.encode(*batch(0, *lengths))
        codes_BKF = encode(*batch(0, *lengths))
        assert torch.equal(codes_BKF[..., : expected_BKF.shape[2]], expected_BKF)
    assert [graph.replays for graph in record.calls] == [3, 3]


def test_a_shape_that_cannot_be_captured_is_computed_without_a_graph_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(compute: Callable[[], Tensor]) -> Recorded:
        raise RuntimeError("operation not permitted when stream is capturing")

    codec = loaded("pure", masked=True)
    encode = GraphedEncoder(codec.encode_padded, CPU, 2 * 9_000, refuse)  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for lengths in ((9_000, 8_000), (6_000, 5_000)):
                codes_BKF = encode(*batch(1, *lengths))
                assert torch.equal(codes_BKF, codec.encode_padded(*batch(1, *lengths)))  # type: ignore[attr-defined]
    assert len(caplog.messages) == 1
    assert "not permitted when stream is capturing" in caplog.text
