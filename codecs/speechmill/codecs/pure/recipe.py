"""Training of PURE: first a VAE, then quantizers, whose first stage learns from an enhancer.

Follows sections III-B and III-C of arXiv 2511.22687. Every choice that the paper does not state is
a field of `PureRecipeConfig` or a loss weight, whose comment names its origin.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from speechmill.codecs.checkpoint import load_unfolded, read_state_dict
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.losses import (
    LoudnessLoss,
    MelLoss,
    STFTLoss,
    kl_to_standard_normal,
    l1_and_mse,
)
from speechmill.codecs.nn.codebook_ema import CodebookEMA, KMeansStart
from speechmill.codecs.nn.quantize import straight_through
from speechmill.codecs.nn.usage import codebook_use, latent_use
from speechmill.codecs.pure.config import PureConfig
from speechmill.codecs.pure.model import PureNetwork
from speechmill.codecs.recipe import (
    Enhance,
    Recipe,
    StepOutput,
    TrainingBatch,
    merge_weights,
    random_depths,
)

_WEIGHTS = {
    "waveform": 1.0,  # lambda_rec, section IV-B
    "mel": 45.0,  # the first author's public configuration, as is "feature"
    "stft": 0.0,
    "loudness": 0.0,
    "kl": 1e-2,  # ours: the paper's value could not be read
    "enhancement": 1.0,  # ours, for the same reason
    "vq": 0.25,
    "latent": 0.0,  # ours: mean square of the latent, which drifts if the encoder is not frozen
    "first_stage": 0.0,  # Dec(q1) to the enhanced audio: an auxiliary of the first author's code
    "adversarial": 1.0,
    "feature": 2.0,
}
_LOGVAR_RANGE = (-12.0, 6.0)  # keeps exp() finite while the head is random


@dataclass(frozen=True, kw_only=True, slots=True)
class PureRecipeConfig:
    """Settings of the training, including the ablations of Table III."""

    p_enh: float = 0.5  # probability that an utterance's target is its enhanced version
    enhance_after: int = 0  # steps of the second phase without the enhancer (ablation D)
    enhanced_stages: int = 1  # stages that learn the enhanced version together (ablation E)
    freeze_encoder: bool = True  # in the second phase (ablation H)
    stage1_mode: str = "target"  # stage 1 searches for the raw latent; "swap": for its target
    dropout: float = 1.0  # share of utterances decoded from 1 to all stages, the rest from all
    codebook_update: str = "ema"  # or "gradient"
    ema_decay: float = 0.99
    revive_below: float = 2.0  # moving count under which a codeword is replaced
    kmeans_iterations: int = 50
    kmeans_frames: int = 0  # frames to collect for k-means; 0: those of the first batch
    mel_ffts: tuple[int, ...] = (64, 128, 256, 512, 1024)
    mel_bands: tuple[int, ...] = (80, 80, 80, 80, 80)
    stft_ffts: tuple[int, ...] = (1024, 256)
    loudness_ffts: tuple[int, ...] = (256, 512, 1024, 2048)
    loudness_bands: tuple[int, ...] = (32, 64, 80, 96)
    weights: dict[str, float] = field(default_factory=dict)  # by loss; replace the defaults

    def __post_init__(self) -> None:
        if not 0 <= self.p_enh <= 1:
            raise InvalidConfig(f"p_enh is {self.p_enh}; give a probability, 0 to 1")
        if not 0 <= self.dropout <= 1:
            raise InvalidConfig(f"dropout is {self.dropout}; give a share of utterances, 0 to 1")
        if self.stage1_mode not in ("target", "swap"):
            raise InvalidConfig(f"stage1_mode is {self.stage1_mode!r}; use target or swap")
        if self.codebook_update not in ("ema", "gradient"):
            raise InvalidConfig(f"codebook_update is {self.codebook_update!r}; ema or gradient")


@dataclass(frozen=True, slots=True)
class TaughtStages:
    """Frames through all stages; rows M are the frames of all utterances."""

    words_KMD: Tensor  # the codeword of each stage
    inputs_KMD: Tensor  # the vector that each stage searched for
    targets_KMD: Tensor  # the vector that each stage's codeword should represent
    codes_KM: Tensor


class PureRecipe(Recipe):
    """Phase "vae": encoder and decoder, no quantizer. Phase "quantize": quantizers and decoder."""

    phases = ("vae", "quantize")
    quantize_steps: Tensor
    has_codebooks: Tensor

    def __init__(
        self, sizes: PureConfig, config: PureRecipeConfig, enhance: Enhance | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.sample_rate, self.hop_length = sizes.sample_rate, sizes.hop_length
        self.weights = merge_weights(_WEIGHTS, config.weights)
        self.network = PureNetwork(sizes)
        self.ema = CodebookEMA(self.network.quantizer, config.ema_decay, config.revive_below)
        self.mel = MelLoss(sizes.sample_rate, config.mel_ffts, config.mel_bands)
        self.stft = STFTLoss(config.stft_ffts)
        self.loudness = LoudnessLoss(sizes.sample_rate, config.loudness_ffts, config.loudness_bands)
        self.register_buffer("quantize_steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("has_codebooks", torch.tensor(False))
        self.codebooks_KND = nn.Parameter(torch.zeros_like(self.network.quantizer.codebooks_KND))
        self.phase = "vae"
        self._teacher = (enhance,)  # a tuple: not a child module
        self._start = KMeansStart(config.kmeans_frames, config.kmeans_iterations)

    def start_from(self, path: Path) -> None:
        """Load the weights of a checkpoint, with its codebooks unless only `vae` trained it."""
        state = {name: value.float() for name, value in read_state_dict(path).items()}
        load_unfolded(self.network, state, str(path))
        if self.network.quantizer.codebooks_KND.any():
            counts_KN = torch.ones_like(self.ema.counts_KN)  # unknown, so all equal
            self._continue_from_codebooks(counts_KN)

    def begin_phase(self, phase: str) -> None:
        self.phase = phase
        quantizing = phase == "quantize"
        if quantizing:
            self.quantize_steps.zero_()
        else:
            self.has_codebooks.fill_(False)  # training changes the latents that they represent
        for name, parameter in self.named_parameters():
            encodes = name.startswith(("network.encoder.", "network.vae_head."))
            parameter.requires_grad_(not (quantizing and encodes and self.config.freeze_encoder))
        gradient = quantizing and self.config.codebook_update == "gradient"
        self.codebooks_KND.requires_grad_(gradient)

    def num_init_frames(self) -> int:
        return 0 if self.phase == "vae" or self.has_codebooks else self._start.missing

    @torch.no_grad()
    def initialize_from(self, batch: TrainingBatch) -> None:
        """Initialise each stage with the k-means of the raw latent's residual before it."""
        quantizer = self.network.quantizer
        counts_KN = self._start.initialize_from(
            quantizer, _flatten_frames(self.latent(batch.audio_BT))
        )
        if counts_KN is not None:
            if quantizer.num_searched:
                quantizer.searched_SND.copy_(quantizer.codebooks_KND[: quantizer.num_searched])
            self._continue_from_codebooks(counts_KN)

    def forward(self, batch: TrainingBatch) -> StepOutput:
        return self._vae(batch) if self.phase == "vae" else self._quantize(batch)

    def after_step(self) -> None:
        if self.phase == "vae":
            return
        self.quantize_steps += 1
        if self.config.codebook_update == "gradient":
            self.network.quantizer.codebooks_KND.copy_(self.codebooks_KND.detach())
        else:
            self.ema.update(self.network.quantizer)

    def reconstruct(self, audio_BT: Tensor) -> Tensor:
        mu_BDF = self.latent(audio_BT)
        if self.phase == "quantize":
            quantizer = self.network.quantizer
            mu_BDF = quantizer.decode(quantizer.encode(mu_BDF, len(quantizer.codebooks_KND)))
        return self._decode(mu_BDF, audio_BT.shape[-1])

    def weights_for_inference(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def latent(self, audio_BT: Tensor) -> Tensor:
        """Return mu_BDF, the posterior's mean, which is quantized (not a sample of it)."""
        return self.network.posterior(audio_BT)[0].float()

    def quantize(self, latent_BDF: Tensor, target_BDF: Tensor) -> TaughtStages:
        """Return every stage's input, target and codeword (eq. 9 and 11).

        Stage 2 and later get the raw latent's residual, also if stage 1 learnt the enhanced one.
        """
        raw_MD, taught_MD = _flatten_frames(latent_BDF), _flatten_frames(target_BDF)
        sum_MD = torch.zeros_like(raw_MD)
        words: list[Tensor] = []
        inputs: list[Tensor] = []
        targets: list[Tensor] = []
        codes: list[Tensor] = []
        for stage, codebook_ND in enumerate(self._codebooks()):
            residual_MD = raw_MD - sum_MD
            teaching = stage < self.config.enhanced_stages
            targets.append(taught_MD - sum_MD if teaching else residual_MD)
            inputs.append(targets[-1] if self.config.stage1_mode == "swap" else residual_MD)
            codes.append(self.network.quantizer.distances(inputs[-1], stage).argmin(-1))
            words.append(codebook_ND[codes[-1]])
            sum_MD = sum_MD + words[-1].detach()
        return TaughtStages(*map(torch.stack, (words, inputs, targets, codes)))

    def _vae(self, batch: TrainingBatch) -> StepOutput:
        mu_BDF, logvar_BDF = self.network.posterior(batch.audio_BT)
        logvar_BDF = logvar_BDF.float().clamp(*_LOGVAR_RANGE)
        z_BDF = mu_BDF + (0.5 * logvar_BDF).exp() * torch.randn_like(mu_BDF)
        audio_BT = self._decode(z_BDF, batch.audio_BT.shape[-1])
        terms = self._reconstruction(audio_BT, batch.audio_BT)
        terms["kl"] = kl_to_standard_normal(mu_BDF.float(), logvar_BDF)
        return StepOutput(terms, audio_BT, batch.audio_BT, latent_use(mu_BDF, logvar_BDF))

    def _quantize(self, batch: TrainingBatch) -> StepOutput:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoder):
            latent_BDF = self.latent(batch.audio_BT)
        target_BDF, enhanced_BT, taught_R = self._target(batch, latent_BDF)
        stages = self.quantize(latent_BDF, target_BDF)
        if self.config.codebook_update == "ema":
            self.ema.observe(stages.codes_KM, stages.inputs_KMD, stages.targets_KMD)
        sum_BDF = self._sum(stages.words_KMD, latent_BDF)
        audio_BT = self._decode(straight_through(latent_BDF, sum_BDF), batch.audio_BT.shape[-1])
        terms = self._reconstruction(audio_BT, batch.audio_BT)
        terms["enhancement"] = l1_and_mse(stages.words_KMD[0], stages.targets_KMD[0].detach())
        terms["vq"] = self._vq(latent_BDF, stages)
        if self.weight("latent"):
            terms["latent"] = latent_BDF.square().mean()
        if self.weight("first_stage") and len(taught_R):
            terms["first_stage"] = self._first_stage(stages, latent_BDF, enhanced_BT, taught_R)
        taught = latent_BDF.new_full((), len(taught_R) / len(latent_BDF))
        metrics = {"taught": taught, **codebook_use(stages.codes_KM)}
        return StepOutput(terms, audio_BT, batch.audio_BT, metrics)

    def _target(self, batch: TrainingBatch, latent_BDF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return stage 1's target latent, its audio, and which rows are enhanced."""
        taught_R = self._taught_rows(len(latent_BDF)).to(latent_BDF.device, non_blocking=True)
        if not len(taught_R):
            return latent_BDF.detach(), batch.audio_BT, taught_R
        enhanced_BT = batch.audio_BT.clone()
        enhanced_BT[taught_R] = self._enhanced(batch, taught_R)
        target_BDF = latent_BDF.detach().clone()
        with torch.no_grad():
            target_BDF[taught_R] = self.latent(enhanced_BT[taught_R])
        return target_BDF, enhanced_BT, taught_R

    def _taught_rows(self, batch: int) -> Tensor:
        """Draw the rows whose target is enhanced; on the CPU, so that no GPU is waited for."""
        draw_B = torch.rand(batch)
        after = self.config.enhance_after
        if after and int(self.quantize_steps) < after:  # only this ablation waits
            return torch.empty(0, dtype=torch.long)
        return torch.nonzero(draw_B < self.config.p_enh)[:, 0]

    @torch.no_grad()
    def _enhanced(self, batch: TrainingBatch, rows_R: Tensor) -> Tensor:
        if batch.enhanced_BT is not None:
            return batch.enhanced_BT[rows_R]
        [enhance] = self._teacher
        if enhance is None:
            raise InvalidConfig(
                f"p_enh is {self.config.p_enh}, but there is no enhanced audio; set enhancement to "
                "offline, online or clean, or p_enh to 0"
            )
        enhanced_BT: Tensor = enhance(batch.audio_BT[rows_R])
        return enhanced_BT

    def _reconstruction(self, audio_BT: Tensor, target_BT: Tensor) -> dict[str, Tensor]:
        audio_BT = audio_BT.float()
        terms = {"waveform": (audio_BT - target_BT).abs().mean()}
        if self.weight("mel"):
            terms["mel"] = self.mel(audio_BT, target_BT)
        if self.weight("stft"):
            terms["stft"] = self.stft(audio_BT, target_BT)
        if self.weight("loudness"):
            terms["loudness"] = self.loudness(audio_BT, target_BT)
        return terms

    def _vq(self, latent_BDF: Tensor, stages: TaughtStages) -> Tensor:
        """Return the VQ loss (eq. 13) of the encoder, and of codewords that gradients train."""
        sum_MD = stages.words_KMD.detach().sum(0)
        loss = l1_and_mse(_flatten_frames(latent_BDF), sum_MD)
        if self.config.codebook_update == "gradient":
            before_KMD = _sums_before(stages.words_KMD.detach())
            residuals_KMD = _flatten_frames(latent_BDF).detach() - before_KMD
            loss = loss + l1_and_mse(stages.words_KMD, residuals_KMD)
        return loss

    def _first_stage(
        self, stages: TaughtStages, latent_BDF: Tensor, enhanced_BT: Tensor, taught_R: Tensor
    ) -> Tensor:
        taught = self.config.enhanced_stages
        word_BDF = _utterances(stages.words_KMD[:taught].sum(0), latent_BDF)
        latent_BDF = straight_through(latent_BDF, word_BDF)[taught_R]
        audio_BT = self._decode(latent_BDF, enhanced_BT.shape[-1]).float()
        target_BT = enhanced_BT[taught_R]
        mel: Tensor = self.mel(audio_BT, target_BT)
        return (audio_BT - target_BT).abs().mean() + self.weight("mel") * mel

    def _sum(self, words_KMD: Tensor, latent_BDF: Tensor) -> Tensor:
        """Return the sum of each utterance's first stages, whose number is random."""
        depth = len(words_KMD)
        share = self.config.dropout if self.training else 0.0
        stages_B = random_depths(len(latent_BDF), depth, 1, share, latent_BDF)
        stages_M = stages_B.repeat_interleave(latent_BDF.shape[-1])
        kept_KM = torch.arange(depth, device=latent_BDF.device)[:, None] < stages_M
        return _utterances((words_KMD * kept_KM[..., None]).sum(0), latent_BDF)

    def _decode(self, latent_BDF: Tensor, num_samples: int) -> Tensor:
        audio_B1T: Tensor = self.network.decoder(latent_BDF, None)
        return audio_B1T[:, 0, :num_samples]

    def _codebooks(self) -> Tensor:
        if self.config.codebook_update == "gradient":
            return self.codebooks_KND
        return self.network.quantizer.codebooks_KND

    @torch.no_grad()
    def _continue_from_codebooks(self, count_KN: Tensor) -> None:
        """Continue training from the quantizer's codebooks."""
        quantizer = self.network.quantizer
        self.ema.reset(quantizer, count_KN)
        self.codebooks_KND.copy_(quantizer.codebooks_KND)
        self.has_codebooks.fill_(True)


def _flatten_frames(x_BDF: Tensor) -> Tensor:
    """Return x_MD, the frames of all utterances in one sequence."""
    return x_BDF.transpose(1, 2).flatten(0, 1)


def _utterances(x_MD: Tensor, like_BDF: Tensor) -> Tensor:
    """Return x_BDF: the inverse of `_flatten_frames`."""
    batch, dim, frames = like_BDF.shape
    x_BDF: Tensor = x_MD.view(batch, frames, dim).transpose(1, 2)
    return x_BDF


def _sums_before(words_KMD: Tensor) -> Tensor:
    """Return, for each stage, the sum of the stages before it."""
    return words_KMD.cumsum(0) - words_KMD
