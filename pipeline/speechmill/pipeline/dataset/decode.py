"""Decode the rows of a part to audio."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from speechmill.codecs.api import Codec
from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.tokenize.batching import cut_batches

BATCH_SECONDS = 120.0  # padded, of one batch


def decode_rows(table: pa.Table, codec: Codec, num_codebooks: int) -> Iterator[tuple[int, Samples]]:
    """Yield the position of every row and its float32 audio_T, at most as long as its source.

    Rows of similar length share a batch.
    """
    num_frames = table["num_frames"].to_numpy()
    seconds = table["end"].to_numpy() - table["start"].to_numpy()
    stored = codec.info.num_codebooks
    shortest_first = np.argsort(num_frames, kind="stable").tolist()
    budget = int(BATCH_SECONDS * codec.info.frame_rate)
    for rows in cut_batches(shortest_first, lambda row: int(num_frames[row]), budget):
        codes_BKF = torch.zeros(len(rows), num_codebooks, int(num_frames[rows].max())).long()
        for place, row in zip(codes_BKF, rows, strict=True):
            codes_FK = table["codes"][row].values.to_numpy().reshape(-1, stored).astype(np.int64)
            place[:, : len(codes_FK)] = torch.from_numpy(codes_FK[:, :num_codebooks].T)
        num_frames_B = torch.from_numpy(num_frames[rows].astype(np.int64))
        audio_BT = codec.decode(codes_BKF, num_frames_B).cpu().numpy()
        for row, audio_T in zip(rows, audio_BT, strict=True):
            yield row, audio_T[: round(seconds[row] * codec.info.output_sample_rate)]
