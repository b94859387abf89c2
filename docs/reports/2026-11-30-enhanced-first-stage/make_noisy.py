"""Mix noise into every clip of a folder of shards: `make_noisy.py SPEECH NOISE OUTPUT`.

Each clip gets one excerpt of noise at 0 to 15 dB, drawn by its key, and is written as 16-bit FLAC
at 16 kHz. `speechmill pack` makes shards of the folder.
"""

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from speechmill.jobs.training.augment import add_noise
from speechmill.jobs.training.stream import intact_samples
from speechmill.pipeline.audio.flac import encode_flac
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits, Samples, to_float
from speechmill.pipeline.shards.tar_reader import Sample
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.describe import audio_suffix

RATE = 16_000
SNR_DB = (0.0, 15.0)


def clips(folder: str) -> Iterator[tuple[Sample, Samples]]:
    """Yield every sample of the shards of a folder with its audio at 16 kHz."""
    limits = Limits()
    for sample in intact_samples([folder], Storage(), limits.member_bytes):
        data = sample.members[audio_suffix(sample, None)]
        yield sample, to_float(decode_audio(data, RATE, AudioSettings(), limits).audio_T)


def main(speech: str, noise: str, output: str) -> None:
    """Write one noisy clip for each clip of speech."""
    noises = [noise_T for _, noise_T in clips(noise) if np.any(noise_T)]
    for sample, speech_T in clips(speech):
        random = np.random.default_rng(zlib.crc32(sample.key.encode()))
        noise_T = noises[random.integers(len(noises))]
        start = random.integers(max(1, len(noise_T) - len(speech_T) + 1))
        excerpt_T = np.resize(noise_T[start:], len(speech_T))
        noisy_T = add_noise(speech_T, excerpt_T, random.uniform(*SNR_DB))
        noisy_T *= min(1.0, 0.99 / np.abs(noisy_T).max())
        path = Path(output, f"{sample.key}.flac")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_flac(noisy_T, RATE))


if __name__ == "__main__":
    main(*sys.argv[1:])
