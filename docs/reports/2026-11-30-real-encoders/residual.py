"""What HASRD's acoustic codebooks are given and what they leave, by the length of the clips.

`residual.py CONFIG CHECKPOINT SEMANTIC MANIFEST`: the codec's files, those of the model of its
features, and recordings at 16 kHz, of which the first 60 are cut into clips. Acoustic codebooks
that are empty are started from these clips, as in training.
"""

import json
import sys
from itertools import islice
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from speechmill.codecs import load_recipe
from speechmill.codecs.hasrd.recipe import HasrdRecipe
from speechmill.codecs.recipe import TrainingBatch

RATE = 16_000
LONGEST = 8  # s


@torch.no_grad()
def main(config: str, checkpoint: str, semantic: str, manifest: str) -> None:
    """Print a line for each length."""
    rows = [json.loads(line) for line in Path(manifest).read_text().splitlines()]
    recordings = [soundfile.read(row["path"], dtype="float32")[0] for row in islice(rows, 60)]
    audio = [torch.from_numpy(audio_T[: LONGEST * RATE]) for audio_T in recordings]
    settings = {"kmeans_frames": 15_000, "kmeans_iterations": 20}
    recipe = load_recipe(
        "hasrd-2k-whisper-tiny",
        config=config,
        checkpoint=checkpoint,
        settings=settings,
        semantic_checkpoint=semantic,
    )
    assert isinstance(recipe, HasrdRecipe)
    recipe.eval()
    if recipe.num_init_frames():
        for clip_T in audio:
            recipe.initialize_from(TrainingBatch(clip_T[None, : len(clip_T) // 320 * 320]))
            if not recipe.num_init_frames():
                break
    for seconds in (1, 2, 4, 8):
        size = seconds * RATE
        clips = [clip_T for each in audio for clip_T in each.split(size) if len(clip_T) == size]
        describe(seconds, recipe, clips)


def describe(seconds: int, recipe: HasrdRecipe, clips: list[Tensor]) -> None:
    """Print the residual's variance, what codebook 0 explains of it, and what is left."""
    streams = [recipe._streams(clip_T[None]) for clip_T in clips]
    codes_M = torch.cat([codes_BF[0] for codes_BF, _, _ in streams])
    residual_MD = torch.cat([residual_BFD[0] for _, _, residual_BFD in streams])
    variance = mean_square(residual_MD - residual_MD.mean(0))
    sums_ND = torch.zeros(1024, residual_MD.shape[1]).index_add(0, codes_M, residual_MD)
    means_ND = sums_ND / torch.bincount(codes_M, minlength=1024).clamp(min=1)[:, None]
    explained = 1 - mean_square(residual_MD - means_ND[codes_M]) / variance
    stages = recipe._codebooks().stages(residual_MD)
    left = mean_square(stages.inputs_KMD[-1] - stages.words_KMD[-1]) / variance
    bits = shared_bits(codes_M, stages.codes_KM[0])
    chance = shared_bits(codes_M[torch.randperm(len(codes_M))], stages.codes_KM[0])
    print(
        f"{seconds} s: variance {variance:.1f}, codebook 0 explains {explained:.2f}, left "
        f"{left:.2f}, codebook 1 says {bits - chance:.1f} bits more of codebook 0 than chance"
    )


def mean_square(x_MD: Tensor) -> float:
    """Return the mean squared length of vectors."""
    return float(x_MD.square().sum(1).mean())


def shared_bits(one_M: Tensor, other_M: Tensor) -> float:
    """Return the mutual information of two codes, as their counts give it."""
    joint_NN = torch.zeros(1024, 1024).index_put(
        (one_M, other_M), torch.ones(len(one_M)), accumulate=True
    )
    joint_NN /= len(one_M)
    independent_NN = joint_NN.sum(1, keepdim=True) * joint_NN.sum(0)
    seen_NN = joint_NN > 0
    return float((joint_NN[seen_NN] * (joint_NN / independent_NN)[seen_NN].log2()).sum())


if __name__ == "__main__":
    main(*sys.argv[1:])
