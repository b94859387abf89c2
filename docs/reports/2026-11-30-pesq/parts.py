"""Replace parts of a PURE codec's output by the original and score each mixture.

`python parts.py CHECKPOINT FOLDER CAMPLUSPLUS`: weights of `pure-16k-small`, a folder of FLAC
files, and CAM++ (campplus.pt). It prints PESQ and the speaker similarity.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from pesq import pesq
from scipy.signal import butter, sosfiltfilt
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs import load_recipe
from speechmill.codecs.nn.spectra import mel_bank
from speechmill.codecs.pure.recipe import PureRecipe
from speechmill.pipeline.quality.campplus import kaldi_features, load_campplus

RATE, SECONDS, CLIPS = 16_000, 4, 8


def clips(folder: str) -> Iterator[Tensor]:
    """Yield the first seconds of some files, at 16 kHz, in whole frames."""
    files = sorted(Path(folder).rglob("*.flac"))
    for path in files[:: max(1, len(files) // CLIPS)][:CLIPS]:
        audio_T, rate = soundfile.read(path, dtype="float32")
        at_rate_T = soxr.resample(audio_T, rate, RATE)[: SECONDS * RATE]
        yield torch.tensor(at_rate_T[: len(at_rate_T) // 320 * 320])


def stft(audio_T: Tensor, fft: int) -> Tensor:
    """Return spectrum_SF with a Hann window; the hop is a quarter of it."""
    window_N = torch.hann_window(fft)
    return torch.stft(audio_T, fft, fft // 4, window=window_N, return_complex=True)


def istft(spectrum_SF: Tensor, size: int, fft: int) -> Tensor:
    """Return audio_T of `size` samples."""
    return torch.istft(spectrum_SF, fft, fft // 4, window=torch.hann_window(fft), length=size)


def below(audio_T: Tensor, hz: float) -> Tensor:
    """Return the audio below a frequency, without delay."""
    sections = butter(8, hz, fs=RATE, output="sos")
    return torch.tensor(sosfiltfilt(sections, audio_T.numpy()).astype(np.float32))


def mixtures(ours_T: Tensor, original_T: Tensor) -> dict[str, Tensor]:
    """Return versions of our audio in which a part is that of the original."""
    ours, original, size = stft(ours_T, 512), stft(original_T, 512), len(ours_T)
    bank_BS = mel_bank(512, 32, RATE).T
    gain_BF = (bank_BS @ original.abs()) / (bank_BS @ ours.abs() + 1e-6)
    gain_SF = (bank_BS / (bank_BS.sum(0) + 1e-6)).T @ gain_BF.clamp(max=10)
    found = {
        "magnitudes of the original": istft(torch.polar(original.abs(), ours.angle()), size, 512),
        "phases of the original": istft(torch.polar(ours.abs(), original.angle()), size, 512),
        "gains of the original in 32 bands": istft(ours * gain_SF, size, 512),
    }
    for hz in (1000, 2000, 4000):
        low_T, our_low_T = below(original_T, hz), below(ours_T, hz)
        found[f"original below {hz} Hz"] = low_T + ours_T - our_low_T
        found[f"original above {hz} Hz"] = our_low_T + original_T - low_T
    return found


@torch.no_grad()
def main(checkpoint: str, folder: str, campplus: str) -> None:
    """Print the mean scores of the codec, of its unquantized latent and of the mixtures."""
    speakers = load_campplus(campplus).eval()

    def embed(audio_T: Tensor) -> Tensor:
        return speakers(kaldi_features(audio_T.numpy())[None])[0]

    recipe = load_recipe(
        "pure-16k-small",
        config={"backbone": "frames"},
        checkpoint=checkpoint,
        settings={"p_enh": 0},
    )
    assert isinstance(recipe, PureRecipe)
    recipe.eval().begin_phase("quantize")
    scores: dict[str, list[tuple[float, float]]] = {}
    for original_T in clips(folder):
        ours_T = recipe.reconstruct(original_T[None])[0]
        latent_BDF = recipe.latent(original_T[None])
        versions = {
            "the codec": ours_T,
            "without quantization": recipe.network.decoder(latent_BDF, None)[0, 0],
            **mixtures(ours_T, original_T),
        }
        for name, audio_T in versions.items():
            score = pesq(RATE, original_T.numpy(), audio_T.numpy(), "wb")
            similarity = F.cosine_similarity(embed(original_T), embed(audio_T), dim=0)
            scores.setdefault(name, []).append((score, float(similarity)))
    for name, values in scores.items():
        score, similarity = np.mean(values, axis=0)
        print(f"{name:36s} {score:.2f}  {similarity:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
