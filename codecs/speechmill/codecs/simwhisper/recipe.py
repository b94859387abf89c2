"""Training of SimWhisper-Codec: everything after its frozen Whisper encoder.

Section 3 of arXiv 2510.20504 freezes the encoder and trains the rest as a GAN's generator, in more
than one stage, with reconstruction, adversarial and feature losses. The paper's loss weights and
the authors' training code could not be read: the weights, and the parts that the second phase
trains, are our choice. Weight norm is left out, because the codec computes the same without it.
So is the batch normalisation (arXiv 1502.03167) of latents that start at random: without it their
means drift to the ends of the tanh, where all frames are rounded to the same levels.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.fetch import fetch
from speechmill.codecs.losses import MelLoss
from speechmill.codecs.nn.masks import pad_or_trim
from speechmill.codecs.nn.usage import codebook_use
from speechmill.codecs.nn.whisper.sizes import SAMPLE_RATE, WINDOW_SAMPLES
from speechmill.codecs.recipe import Recipe, StepOutput, TrainingBatch, merge_weights
from speechmill.codecs.simwhisper.config import SimWhisperConfig
from speechmill.codecs.simwhisper.model import SimWhisperNetwork
from speechmill.codecs.simwhisper.weights import load_simwhisper, load_whisper

_WEIGHTS = {  # ours; HiFi-GAN and Vocos use this mel weight for one scale
    "mel": 45.0,
    "waveform": 0.0,
    "adversarial": 1.0,
    "feature": 2.0,
}
_FOLLOW = 0.3  # of the way to the statistics of a batch, after each step
_DECODER = ("network.upsample", "network.acoustic_decoder", "network.vocos")


@dataclass(frozen=True, kw_only=True, slots=True)
class SimWhisperRecipeConfig:
    """Settings of the training."""

    whisper: str | None = None  # file or url of Whisper of this width, in transformers' format
    mel_ffts: tuple[int, ...] = (256, 512, 1024, 2048)
    mel_bands: tuple[int, ...] = (20, 40, 80, 80)
    weights: dict[str, float] = field(default_factory=dict)  # by loss; replace the defaults


class SimWhisperRecipe(Recipe):
    """Phase "codec": all but the encoder. Phase "decoder": only the decoder, for fixed codes."""

    phases = ("codec", "decoder")

    def __init__(self, sizes: SimWhisperConfig, config: SimWhisperRecipeConfig) -> None:
        super().__init__()
        self.sizes, self.config = sizes, config
        self.sample_rate, self.hop_length = SAMPLE_RATE, sizes.hop_length
        self.weights = merge_weights(_WEIGHTS, config.weights)
        self.network = SimWhisperNetwork(sizes)
        self.mel = MelLoss(SAMPLE_RATE, config.mel_ffts, config.mel_bands, squared=False)
        self._is_random, self._phase = True, ""
        self._seen_BDF: Tensor | None = None  # latents of the step, before normalisation
        self._is_begun = False
        if config.whisper is not None:
            load_whisper(self.network.acoustic_encoder, fetch(config.whisper))

    def start_from(self, path: Path) -> None:
        """Load the weights of the authors' file, or of a training run."""
        if self.config.whisper is not None:
            raise InvalidConfig(
                "the checkpoint contains an encoder; leave whisper out, or set the "
                "checkpoint to untrained"
            )
        load_simwhisper(self.network, self.sizes, path)
        self._is_random = False

    def begin_phase(self, phase: str) -> None:
        self._phase = phase
        bottleneck = ("network.downsample",) if phase == "codec" else ()
        self.train_only(*bottleneck, *_DECODER)

    @property
    def normalizes(self) -> bool:
        """Whether latents are normalised over the batch."""
        return self._is_random and self._phase == "codec"

    def num_init_frames(self) -> int:
        return int(self.normalizes and not self._is_begun)

    @torch.no_grad()
    def initialize_from(self, batch: TrainingBatch) -> None:
        self.network.downsample.standardize(self.latents(batch.audio_BT))
        self._is_begun = True

    def forward(self, batch: TrainingBatch) -> StepOutput:
        latent_BDF = raw_BDF = self.latents(batch.audio_BT)
        if self.training and self.normalizes:
            self._seen_BDF = raw_BDF.detach()
            latent_BDF = F.batch_norm(raw_BDF.float(), None, None, training=True)
        ours_BT = self.network.synthesize(self.network.quantizer.quantize(latent_BDF)).float()
        terms = {"mel": self.mel(ours_BT, batch.audio_BT)}
        if self.weight("waveform"):
            terms["waveform"] = (ours_BT - batch.audio_BT).abs().mean()
        codes_BKF = self.network.quantizer.encode(raw_BDF.detach())  # those of inference
        metrics = codebook_use(codes_BKF.transpose(0, 1).flatten(1))
        return StepOutput(terms, ours_BT, batch.audio_BT, metrics)

    def after_step(self) -> None:
        """Let the last layer follow the normalisation, which inference does not compute."""
        if self._seen_BDF is not None:
            self.network.downsample.standardize(self._seen_BDF, _FOLLOW)
            self._seen_BDF = None

    @torch.no_grad()
    def reconstruct(self, audio_BT: Tensor) -> Tensor:
        """Return the reconstruction of at most 30 s of audio."""
        codes_BKF = self.network.quantizer.encode(self.latents(audio_BT))
        return pad_or_trim(self.network.decode(codes_BKF), audio_BT.shape[-1])

    def weights_for_inference(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def latents(self, audio_BT: Tensor) -> Tensor:
        """Return latent_BDF of whole frames; raises `InvalidConfig` for crops over a window."""
        num_samples = audio_BT.shape[-1]
        if num_samples > WINDOW_SAMPLES:
            seconds = WINDOW_SAMPLES // SAMPLE_RATE
            raise InvalidConfig(f"Whisper takes {seconds} s at most; make the crops shorter")
        return self.network.latents(audio_BT, num_samples // self.hop_length, None)
