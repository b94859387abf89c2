"""CUDA graphs of every family of codecs."""

import gc
from threading import Event, Thread

import pytest
import torch
from torch import Tensor

from speechmill.codecs import load_codec
from speechmill.codecs.cuda_graphs import GraphedEncoder
from tests.codecs.cases import CASES
from tests.gpu.batches import on_device
from tests.gpu.devices import CUDA, FAMILIES, ON_GPU, pcm

pytestmark = ON_GPU
SHAPES = ((2, 32_000), (3, 16_000))


def batch(shape: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    rows, width = shape
    lengths = [width, width - 777 * seed, width // 2][:rows]
    return on_device([pcm(n, seed + i) for i, n in enumerate(lengths)], shape, "cuda")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", FAMILIES)
def test_a_replay_gives_the_codes_of_a_call_without_a_graph(
    case: str, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    codec = CASES[case].load(device="cuda", precision=precision, self_check=False)
    encode = GraphedEncoder(codec.encode_padded, CUDA, 2 * 32_000)  # type: ignore[attr-defined]
    for seed in range(4):  # captured, then replayed
        for shape in SHAPES:
            expected_BKF = codec.encode_padded(*batch(shape, seed))  # type: ignore[attr-defined]
            assert torch.equal(encode(*batch(shape, seed)), expected_BKF)
    assert "without CUDA graphs" not in caplog.text


def test_other_threads_may_use_the_gpu_while_a_graph_is_captured() -> None:
    stop = Event()

    def copy_and_allocate() -> None:
        while not stop.is_set():
            torch.ones(100_000).pin_memory().to(CUDA, non_blocking=True).sum().item()

    codec = CASES["pure"].load(device="cuda")
    other = Thread(target=copy_and_allocate)
    other.start()
    try:
        for seed in range(5):
            encode = GraphedEncoder(codec.encode_padded, CUDA, 2 * 32_000)  # type: ignore[attr-defined]
            for _ in range(3):
                codes_BKF = encode(*batch(SHAPES[0], seed))
            assert torch.equal(codes_BKF, codec.encode_padded(*batch(SHAPES[0], seed)))  # type: ignore[attr-defined]
    finally:
        stop.set()
        other.join()


def test_the_graphs_of_all_shapes_share_their_memory() -> None:
    codec = load_codec("pure-16k-small", device="cuda")
    encode = GraphedEncoder(codec.encode_padded, CUDA, 16 * 160_000)  # type: ignore[attr-defined]

    def reserved_after(rows: int) -> int:
        shape = (rows, 160_000)
        for _ in range(3):
            encode(torch.zeros(shape, device=CUDA), torch.full((rows,), 160_000, device=CUDA))
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    largest = reserved_after(16) - before
    # If each graph kept memory of its own, these eight together would take six times as much.
    after = [reserved_after(rows) for rows in range(15, 7, -1)]
    assert after[-1] - before < 2 * largest
