"""The pipeline's encoder: two batches in flight, and a GPU without enough memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from speechmill.codecs import load_codec
from speechmill.codecs.fixed_shapes import FixedShapeCodec
from speechmill.codecs.shapes import BatchShapes, ShapeSettings, plan_shapes
from speechmill.pipeline.errors import DeviceFull
from speechmill.pipeline.tokenize.canary import Canary, reference_codes
from speechmill.pipeline.tokenize.fixed_batches import BatchEncoder, Launched
from tests.codecs.cases import CASES
from tests.gpu.batches import fixed_batch, on_device
from tests.gpu.devices import CUDA, DEVICES, ON_GPU, mismatch, pcm
from tests.gpu.timing import call_ms

# Less than one code in a thousand lies so near to a tie that float32 rounds it to the other side in
# a batch of another number of rows.
ROUNDED = 0.001
Limit = Callable[[float], None]


@pytest.mark.parametrize("device", DEVICES)
def test_two_batches_in_flight_have_the_codes_of_the_codec(device: str) -> None:
    codec, shapes = CASES["pure frames"].load(device=device), BatchShapes((4_800, 9_600), (3, 2))
    encoder = BatchEncoder(codec, shapes, torch.device(device))
    flying: list[tuple[Launched, torch.Tensor]] = []
    for number in range(8):  # each shape captured, then replayed
        bucket, width = number % 2, shapes.widths[number % 2]
        clips: list[np.ndarray] = [pcm(width - 300 * i, 10 * number + i) for i in range(2)]
        if number > 3:
            clips[0] = clips[0].astype(np.float32) / 32768
        batch = on_device(clips, (shapes.rows[bucket], width), device)
        expected_RKF = codec.encode_padded(*batch).cpu()  # type: ignore[attr-defined]
        flying.append((encoder.launch(fixed_batch(clips, codec.info, bucket)), expected_RKF))
        if len(flying) == 2:
            launched, expected_RKF = flying.pop(0)
            found_RFK = torch.from_numpy(encoder.finish(launched))
            assert torch.equal(found_RFK[:2].transpose(1, 2), expected_RKF[:2])


@pytest.fixture
def limit_memory() -> Iterator[Limit]:
    """Return a function that leaves this process a number of bytes more than it holds."""

    def limit(more: float) -> None:
        torch.cuda.empty_cache()
        held, total = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, (held + more) / total))

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@ON_GPU
def test_a_full_gpu_splits_batches_and_goes_on(
    limit_memory: Limit, caplog: pytest.LogCaptureFixture
) -> None:
    codec, shapes = load_codec("pure-16k-small", device="cuda"), BatchShapes((160_000,), (32,))
    clips = [pcm(160_000 - 100 * i, i) for i in range(32)]
    batch = on_device(clips, (32, 160_000), "cuda")
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    expected_RKF = codec.encode_padded(*batch).cpu()  # type: ignore[attr-defined]
    needed = torch.cuda.max_memory_allocated() - held
    encoder = BatchEncoder(codec, shapes, CUDA)
    limit_memory(0.7 * needed)
    for _ in range(4):  # half batches captured, then replayed
        launched = encoder.launch(fixed_batch(clips, codec.info, 0))
        assert launched.split
        found_RKF = torch.from_numpy(encoder.finish(launched)).transpose(1, 2)
        assert mismatch(found_RKF, list(expected_RKF)) <= ROUNDED
    assert caplog.text.count("does not fit into the memory of the device") in (1, 2)


@ON_GPU
def test_a_clip_that_does_not_fit_is_an_error_and_the_gpu_goes_on(limit_memory: Limit) -> None:
    codec = load_codec("pure-16k-small", device="cuda")
    encoder = BatchEncoder(codec, BatchShapes((8_000, 3_200_000), (1, 1)), CUDA)
    limit_memory(64e6)
    with pytest.raises(DeviceFull, match=r"segment\.by=fixed"):
        encoder.finish(encoder.launch(fixed_batch([pcm(3_200_000, 0)], codec.info, 1)))
    clip_T = pcm(8_000, 1)
    found_RFK = encoder.finish(encoder.launch(fixed_batch([clip_T], codec.info, 0)))
    expected_RKF = codec.encode_padded(*on_device([clip_T], (1, 8_000), "cuda")).cpu()  # type: ignore[attr-defined]
    assert torch.equal(torch.from_numpy(found_RFK).transpose(1, 2), expected_RKF)


@ON_GPU
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_fifty_canaries_are_equal_and_take_little_of_a_shards_time(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEECHMILL_CACHE", str(tmp_path))
    options = {"name": "pure-16k-small", "device": "cuda", "precision": precision}
    codec = load_codec(**options, self_check=False)
    fixed = FixedShapeCodec(codec, plan_shapes(codec.info, ShapeSettings()))
    canary = Canary(fixed, "cuda", precision, reference_codes(codec.info, options))
    canary.check()
    spent = sorted(call_ms(canary.check) for _ in range(50))
    # A shard of an hour takes 0.36 s at 10,000 x real time: a tenth of that.
    assert spent[25] < 36
