"""Encode and decode clips one by one, and measure the time."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from speechmill.codecs.api import Codec
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits, Samples, to_float
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.codebook_usage import CodeCounts
from speechmill.pipeline.quality.testset import Utterance


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """One clip after encoding and decoding, or as it is."""

    utterance: Utterance
    num_codebooks: int  # the first of the codec; 0 without a codec of codebooks
    audio_T: Samples  # float32
    sample_rate: int  # Hz, of audio_T
    encode_seconds: float
    decode_seconds: float

    @property
    def unchanged(self) -> bool:
        """Whether it is the clip itself, before any codec."""
        return self.audio_T is self.utterance.input_T


def reconstruct(
    utterances: Iterable[Utterance],
    codec: Codec,
    prefixes: Sequence[int],
    audio: AudioSettings,
    limits: Limits,
    counts: CodeCounts,
) -> Iterator[Reconstruction]:
    """Encode each clip once, then decode each prefix of its codebooks; `counts` counts the codes.

    The seconds are those of a batch of one clip. Clips shorter than a frame are left out.
    """
    warm = False
    for utterance in utterances:
        audio_T = torch.from_numpy(_at_rate(utterance, codec.info.sample_rate, audio, limits))
        if not codec.info.num_frames(len(audio_T)):
            continue
        if not warm:  # the first call includes one-time work
            codec.decode(codec.encode(audio_T[None], _lengths(audio_T)), _frames(codec, audio_T))
            warm = True
        started = time.perf_counter()
        codes_KF = codec.encode(audio_T[None], _lengths(audio_T))[0].cpu()
        encode_seconds = time.perf_counter() - started
        counts.add(codes_KF.numpy())
        for prefix in prefixes:
            started = time.perf_counter()
            decoded_T = codec.decode(codes_KF[None, :prefix], _frames(codec, audio_T))[0].cpu()
            decode_seconds = time.perf_counter() - started
            yield Reconstruction(
                utterance=utterance,
                num_codebooks=prefix,
                audio_T=decoded_T.numpy(),
                sample_rate=codec.info.output_sample_rate,
                encode_seconds=encode_seconds,
                decode_seconds=decode_seconds,
            )


def _at_rate(utterance: Utterance, rate: int, audio: AudioSettings, limits: Limits) -> Samples:
    if rate == RATE:
        return utterance.input_T
    return to_float(decode_audio(utterance.data, rate, audio, limits).audio_T)


def _lengths(audio_T: torch.Tensor) -> torch.Tensor:
    return torch.tensor([len(audio_T)])


def _frames(codec: Codec, audio_T: torch.Tensor) -> torch.Tensor:
    return torch.tensor([codec.info.num_frames(len(audio_T))])
