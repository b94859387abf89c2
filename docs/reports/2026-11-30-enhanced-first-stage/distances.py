"""How far a first stage's codewords are from the noisy and from the enhanced latent.

`distances.py SHARDS CHECKPOINT…`: what `speechmill enhance` wrote, and weights of
`pure-16k-small`. All distances are squared, as shares of the variance of the noisy latent.
"""

import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from speechmill.codecs import load_recipe
from speechmill.codecs.pure.recipe import PureRecipe
from speechmill.jobs.training.stream import intact_samples
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits, to_float
from speechmill.pipeline.storage import Storage

RATE, HOP = 16_000, 320


def pairs(folder: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield noisy_1T and enhanced_1T of every sample, in whole frames."""
    limits = Limits()
    for sample in intact_samples([folder], Storage(), limits.member_bytes):
        names = ("enhanced.flac", "flac")
        enhanced_1T, noisy_1T = (
            torch.from_numpy(
                to_float(decode_audio(sample.members[name], RATE, AudioSettings(), limits).audio_T)
            )[None]
            for name in names
        )
        size = noisy_1T.shape[-1] // HOP * HOP
        yield noisy_1T[:, :size], enhanced_1T[:, :size]


@torch.no_grad()
def main(folder: str, *checkpoints: str) -> None:
    """Print the distances for each checkpoint."""
    for checkpoint in checkpoints:
        recipe = load_recipe(
            "pure-16k-small",
            config={"backbone": "frames"},
            checkpoint=checkpoint,
            settings={"p_enh": 0},
        )
        assert isinstance(recipe, PureRecipe)
        recipe.eval().begin_phase("quantize")
        quantizer = recipe.network.quantizer
        latents = [(recipe.latent(noisy), recipe.latent(clean)) for noisy, clean in pairs(folder)]
        noisy_1DF, enhanced_1DF = (torch.cat(side, dim=-1) for side in zip(*latents, strict=True))
        word_1DF = quantizer.decode(quantizer.encode(noisy_1DF, 1))
        variance = (noisy_1DF - noisy_1DF.mean(-1, keepdim=True)).square().sum(1).mean()
        distances = {
            "noisy to enhanced": noisy_1DF - enhanced_1DF,
            "codeword to noisy": word_1DF - noisy_1DF,
            "codeword to enhanced": word_1DF - enhanced_1DF,
        }
        print(checkpoint)
        for name, difference_1DF in distances.items():
            print(f"  {name:22s} {difference_1DF.square().sum(1).mean() / variance:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
