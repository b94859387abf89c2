"""Encode batches of fixed shapes: one is copied to the device while the one before is computed."""

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from operator import mul
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs.api import Codec
from speechmill.codecs.cuda_graphs import Encode, GraphedEncoder
from speechmill.codecs.shapes import BatchShapes
from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.device_errors import broken_device
from speechmill.pipeline.errors import DeviceFull
from speechmill.pipeline.tokenize.bucket_pool import FixedBatch
from speechmill.pipeline.tokenize.device import unless_full

logger = logging.getLogger(__name__)

_PCM_SCALE = 1 / 32768


@dataclass(frozen=True, slots=True)
class Launched:
    """A batch that the device computes, or has computed."""

    codes_RKF: Tensor  # in host memory; complete after the event
    computed: torch.cuda.Event | None
    started: float  # time.perf_counter()
    split: bool  # computed in batches of fewer rows


class BatchEncoder:
    """A codec on one device, for batches of its fixed shapes; to be used by one thread.

    A batch that does not fit into memory is computed in several, of half the rows or a quarter and
    so on; from then on all batches of its width are.
    """

    def __init__(self, codec: Codec, shapes: BatchShapes, device: torch.device):
        self.info = codec.info
        self.shapes = shapes
        self.device = device
        self._codec = codec
        self._rows = list(shapes.rows)  # of each width, as far as they fit
        self._staging = _Staging(device, max(map(mul, shapes.widths, shapes.rows)))
        self._compute = _compute(codec, device, self._staging.capacity)

    def padded_samples(self, batch: FixedBatch) -> int:
        return self.shapes.widths[batch.bucket] * self.shapes.rows[batch.bucket]

    def launch(self, batch: FixedBatch) -> Launched:
        """Start to compute a batch; at most one other may be in flight.

        Raises `DeviceFull` if a single row does not fit into memory, and `DeviceBroken`.
        """
        return self._launch([clip.audio_T for clip in batch.clips], batch.bucket)

    def finish(self, launched: Launched) -> npt.NDArray[np.int64]:
        """Wait for the end of a batch; return codes_RFK."""
        with broken_device(self.device):
            if launched.computed:
                launched.computed.synchronize()
        return launched.codes_RKF.transpose(1, 2).numpy()

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF of the clips, each computed as in a batch of its own."""
        codes = []
        for audio_T, samples in zip(audio_BT.numpy(), num_samples_B.tolist(), strict=True):
            launched = self._launch([audio_T[:samples]], self.shapes.bucket(samples))
            frames = self.info.num_frames(samples)
            codes.append(torch.from_numpy(self.finish(launched)[0, :frames].T.copy()))
        longest = max(codes_KF.shape[1] for codes_KF in codes)
        return torch.stack([F.pad(row_KF, (0, longest - row_KF.shape[1])) for row_KF in codes])

    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT."""
        return self._codec.decode(codes_BKF, num_frames_B)

    def _launch(self, clips: Sequence[Samples], bucket: int) -> Launched:
        started = time.perf_counter()
        with broken_device(self.device), torch.inference_mode(), self._current_device():
            while True:
                launched = unless_full(partial(self._try, clips, bucket, started))
                if launched is not None:
                    return launched
                self._split(bucket)

    def _try(self, clips: Sequence[Samples], bucket: int, started: float) -> Launched:
        shape = (self.shapes.rows[bucket], self.shapes.widths[bucket])
        audio_RT, lengths_R = self._staging.copy(clips, shape)
        codes_RKF = self._in_parts(audio_RT, lengths_R, self._rows[bucket])
        return self._staging.fetch(codes_RKF, started, self._rows[bucket] < shape[0])

    def _split(self, bucket: int) -> None:
        """Compute batches of this width in smaller parts from now on."""
        rows, seconds = self._rows[bucket], self.shapes.widths[bucket] / self.info.sample_rate
        if rows == 1:
            raise DeviceFull(
                f"a clip of {seconds:.0f} s does not fit into the memory of the device; set "
                "segment.by=fixed to cut such clips, or lower limits.seconds"
            )
        self._rows[bucket] = rows // 2
        logger.warning(
            "a batch of %d rows of %.2f s does not fit into the memory of the device; it is split, "
            "which can change codes in a precision below fp32",
            rows,
            seconds,
        )

    def _current_device(self) -> AbstractContextManager[Any]:
        on_gpu = self.device.type == "cuda"
        return torch.cuda.device(self.device) if on_gpu else nullcontext()

    def _in_parts(self, audio_RT: Tensor, lengths_R: Tensor, rows: int) -> Tensor:
        """Return codes_RKF out of batches of `rows` rows; silence completes the last one."""
        if rows == len(audio_RT):
            return self._compute(audio_RT, lengths_R)
        missing = -len(audio_RT) % rows
        audio_RT = F.pad(audio_RT, (0, 0, 0, missing))
        lengths_R = F.pad(lengths_R, (0, missing), value=audio_RT.shape[1])
        parts = zip(torch.split(audio_RT, rows), torch.split(lengths_R, rows), strict=True)
        codes_RKF = torch.cat([self._compute(*part).clone() for part in parts])
        return codes_RKF[: len(codes_RKF) - missing]


class _Staging:
    """Memory through which batches go to a device and codes come back."""

    def __init__(self, device: torch.device, capacity: int):
        self.capacity = capacity
        self._device = device
        self._on_gpu = device.type == "cuda"
        # Two: a batch is copied while the one before it is computed.
        self._buffers = [torch.empty(4 * capacity, dtype=torch.uint8) for _ in range(2)]
        if self._on_gpu:
            self._buffers = [buffer.pin_memory() for buffer in self._buffers]
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(self, clips: Sequence[Samples], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return audio_RT, float32, and the rows' lengths, on the device.

        A row without a clip is silence of full length.
        """
        here_RT, lengths_R = self._fill(clips, shape)
        if not self._on_gpu:
            return _to_float(here_RT), lengths_R
        with torch.cuda.stream(self._stream):
            there_RT = here_RT.to(self._device, non_blocking=True)
            lengths_R = lengths_R.pin_memory().to(self._device, non_blocking=True)
            copied = self._stream.record_event()
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        there_RT.record_stream(stream)
        lengths_R.record_stream(stream)
        return _to_float(there_RT), lengths_R

    def fetch(self, codes_RKF: Tensor, started: float, split: bool) -> Launched:
        """Start to copy the codes to the host."""
        if not self._on_gpu:
            return Launched(codes_RKF, None, started, split)
        here_RKF = torch.empty(codes_RKF.shape, dtype=codes_RKF.dtype, pin_memory=True)
        here_RKF.copy_(codes_RKF, non_blocking=True)
        computed = torch.cuda.current_stream(self._device).record_event()
        return Launched(here_RKF, computed, started, split)

    def _fill(self, clips: Sequence[Samples], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the clips with silence after each, as 16-bit samples if all of them are."""
        exact = all(audio_T.dtype == np.int16 for audio_T in clips)
        self._buffers.reverse()
        kind = torch.int16 if exact else torch.float32
        audio_RT = self._buffers[0].view(kind)[: shape[0] * shape[1]].view(shape)
        lengths_R = torch.full(shape[:1], shape[1])
        for row, (row_T, audio_T) in enumerate(zip(audio_RT.numpy(), clips, strict=False)):
            size = lengths_R[row] = len(audio_T)
            row_T[:size] = audio_T
            if not exact and audio_T.dtype == np.int16:
                row_T[:size] *= np.float32(_PCM_SCALE)
            row_T[size:] = 0
        audio_RT[len(clips) :] = 0
        return audio_RT, lengths_R


def _to_float(audio_RT: Tensor) -> Tensor:
    if audio_RT.dtype == torch.int16:
        return audio_RT.float().mul_(_PCM_SCALE)
    return audio_RT


def _compute(codec: Codec, device: torch.device, capacity: int) -> Encode:
    """Return the fastest way to encode on the device; lengths are there too."""
    encode_padded: Encode | None = getattr(codec, "encode_padded", None)
    if encode_padded is not None:
        on_gpu = device.type == "cuda"
        return GraphedEncoder(encode_padded, device, capacity) if on_gpu else encode_padded

    def encode(audio_RT: Tensor, lengths_R: Tensor) -> Tensor:
        codes_RKF = codec.encode(audio_RT, lengths_R.cpu())
        return F.pad(codes_RKF, (0, codec.info.num_frames(audio_RT.shape[1]) - codes_RKF.shape[2]))

    return encode
