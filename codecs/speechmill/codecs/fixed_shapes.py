"""A codec whose batches have fixed shapes; `speechmill.codecs.shapes` says why."""

from collections.abc import Iterator

import torch
from torch import Tensor

from speechmill.codecs.api import Codec
from speechmill.codecs.shapes import BatchShapes
from speechmill.codecs.validation import check_audio


class FixedShapeCodec:
    """A codec that encodes every clip in a batch of the shape that belongs to its length."""

    def __init__(self, codec: Codec, shapes: BatchShapes) -> None:
        self.info = codec.info
        self.shapes = shapes
        self._codec = codec

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF."""
        num_samples = check_audio(audio_BT, num_samples_B)
        frames = max(self.info.num_frames(samples) for samples in num_samples)
        shape = (len(num_samples), self.info.num_codebooks, frames)
        codes_BKF = torch.zeros(shape, dtype=torch.int64)
        for bucket, rows in self._batches(num_samples):
            batch_RT, lengths_R = self._batch(audio_BT, num_samples, bucket, rows)
            codes_RKF = self._codec.encode(batch_RT, lengths_R).cpu()
            for row, codes_KF in zip(rows, codes_RKF, strict=False):
                count = self.info.num_frames(num_samples[row])
                codes_BKF[row, :, :count] = codes_KF[:, :count]
        return codes_BKF

    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT."""
        return self._codec.decode(codes_BKF, num_frames_B)

    def _batches(self, num_samples: list[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield a width and which clips to encode in one batch of it."""
        by_width: dict[int, list[int]] = {}
        for row, samples in enumerate(num_samples):
            by_width.setdefault(self.shapes.bucket(samples), []).append(row)
        for bucket, members in sorted(by_width.items()):
            count = self.shapes.rows[bucket]
            for start in range(0, len(members), count):
                yield bucket, members[start : start + count]

    def _batch(
        self, audio_BT: Tensor, num_samples: list[int], bucket: int, members: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Return audio_RT and the rows' lengths; rows without a clip are silence."""
        width, rows = self.shapes.widths[bucket], self.shapes.rows[bucket]
        batch_RT = audio_BT.new_zeros(rows, width)
        lengths = [width] * rows
        for place, row in enumerate(members):
            lengths[place] = num_samples[row]
            batch_RT[place, : lengths[place]] = audio_BT[row, : lengths[place]]
        return batch_RT, torch.tensor(lengths)
