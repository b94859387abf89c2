"""Training of HASRD: everything except the self-supervised model and its centroids.

The full text of arXiv 2506.00843 could not be read. Its abstract states which parts are frozen; the
losses and their weights come from DAC's public 16 kHz configuration, the rest is ours.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from speechmill.codecs.checkpoint import load_unfolded, read_state_dict
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.fetch import digest
from speechmill.codecs.hasrd.config import SAMPLE_RATE, HasrdConfig
from speechmill.codecs.hasrd.model import HasrdNetwork
from speechmill.codecs.hasrd.ssl import FeatureModel, feature_model
from speechmill.codecs.losses import dac_mel_loss
from speechmill.codecs.nn.codebook_ema import CodebookEMA, KMeansStart, broadcast_from_first
from speechmill.codecs.nn.masks import pad_or_trim, padding_mask
from speechmill.codecs.nn.quantize import ResidualQuantizer, straight_through
from speechmill.codecs.nn.usage import codebook_use
from speechmill.codecs.recipe import (
    CentroidRecipe,
    Frozen,
    StepOutput,
    TrainingBatch,
    merge_weights,
    random_depths,
)

_WEIGHTS = {  # DAC's
    "mel": 15.0,
    "commitment": 0.25,
    "codebook": 1.0,
    "adversarial": 1.0,
    "feature": 2.0,
}
_RIDGE = 1e-3  # of the mean variance of the words


@dataclass(frozen=True, kw_only=True, slots=True)
class HasrdRecipeConfig:
    """Settings of the training; those of moving averages and k-means apply only if "euclidean"."""

    dropout: float = 0.5  # share of utterances decoded from 0 to all acoustic codebooks, at random
    ema_decay: float = 0.99
    revive_below: float = 2.0  # moving count under which a codeword is replaced
    kmeans_iterations: int = 50
    kmeans_frames: int = 0  # frames to collect for k-means; 0: those of the first batch
    mel_ffts: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    mel_bands: tuple[int, ...] = (5, 10, 20, 40, 80, 160, 320)
    weights: dict[str, float] = field(default_factory=dict)  # by loss; replace the defaults

    def __post_init__(self) -> None:
        if not 0 <= self.dropout <= 1:
            raise InvalidConfig(f"dropout is {self.dropout}; give a share, 0 to 1")


class HasrdRecipe(CentroidRecipe):
    """One phase: projections, acoustic codebooks and decoder learn to reconstruct the audio."""

    phases = ("codec",)
    has_codebooks: Tensor

    def __init__(self, sizes: HasrdConfig, config: HasrdRecipeConfig) -> None:
        super().__init__()
        self.sizes, self.config = sizes, config
        self.sample_rate, self.hop_length = SAMPLE_RATE, sizes.hop_length
        self.weights = merge_weights(_WEIGHTS, config.weights)
        self.ssl = Frozen(feature_model(sizes.ssl, sizes.semantic_layer))
        self.network = HasrdNetwork(sizes)
        self.mel = dac_mel_loss(SAMPLE_RATE, config.mel_ffts, config.mel_bands)
        self.ema: CodebookEMA | None = None
        if isinstance(self.network.quantizer, ResidualQuantizer):
            self.ema = CodebookEMA(self.network.quantizer, config.ema_decay, config.revive_below)
        self.register_buffer("has_codebooks", torch.tensor(self.ema is None))
        self._start = KMeansStart(config.kmeans_frames, config.kmeans_iterations)

    def load_semantic(self, path: Path) -> None:
        """Load the self-supervised model from a file in transformers' format."""
        cast(FeatureModel, self.ssl.network).load_transformers(read_state_dict(path), str(path))
        self.sizes = replace(self.sizes, semantic_sha256=digest(path))

    def start_from(self, path: Path) -> None:
        """Load the weights of a checkpoint, of this codec or of its centroids alone."""
        state = {name: value.float() for name, value in read_state_dict(path).items()}
        load_unfolded(self.network, state, str(path))
        if self.ema is not None and bool(self._codebooks().codebooks_KND.any()):
            counts_KN = torch.ones_like(self.ema.counts_KN)  # unknown, so all equal
            self._continue_from_codebooks(counts_KN)

    def begin_phase(self, phase: str) -> None:
        if not bool(self.centroids_NH.any()):
            raise InvalidConfig(
                "the semantic codebook is empty: fit it with `speechmill fit-kmeans` and give the "
                "checkpoint that it writes"
            )
        self.train_only("network")

    @property
    def centroids_NH(self) -> Tensor:
        return self.network.centroids.codebooks_KND[0]

    @torch.no_grad()
    def points(self, audio_BT: Tensor) -> Tensor:
        last_BT = torch.arange(1, audio_BT.shape[1] + 1, device=audio_BT.device) * (audio_BT != 0)
        samples_B = last_BT.amax(1)
        audio_BT, samples_B = audio_BT[samples_B > 0], samples_B[samples_B > 0]
        if not len(audio_BT):
            return audio_BT.new_empty(0, self.sizes.ssl.hidden_size)
        frames_B = -(-samples_B // self.hop_length)
        ssl = cast(FeatureModel, self.ssl.network)
        states = ssl(ssl.prepare(audio_BT, samples_B), frames_B * self.hop_length)
        semantic_BFH = self.network.taps(states, acoustic=False).semantic_BFH
        return semantic_BFH[~padding_mask(frames_B, semantic_BFH.shape[1])]

    def fitted_config(self) -> dict[str, Any]:
        if self.sizes.semantic_sha256 is None:
            raise InvalidConfig(
                "centroids of random layers are useless; give semantic_checkpoint, the file of "
                "the self-supervised model"
            )
        return asdict(self.sizes)

    def num_init_frames(self) -> int:
        return 0 if self.has_codebooks else self._start.missing

    @torch.no_grad()
    def initialize_from(self, batch: TrainingBatch) -> None:
        codes_BF, semantic_BFD, residual_BFD = self._streams(batch.audio_BT)
        if self.sizes.acoustic_source == "same":  # it does not subtract this projection
            counts_KN = self._start.initialize_from(self._codebooks(), residual_BFD.flatten(0, 1))
        else:
            latent_BFD = residual_BFD + semantic_BFD
            counts_KN = self._start.initialize_from(
                self._codebooks(),
                latent_BFD.flatten(0, 1),
                codes_BF.flatten(),
                prepare=self._fit_semantic_proj,
            )
        if counts_KN is not None:
            self._continue_from_codebooks(counts_KN)

    def forward(self, batch: TrainingBatch) -> StepOutput:
        _, semantic_BFD, residual_BFD = self._streams(batch.audio_BT)
        share = self.config.dropout if self.training else 0.0
        depth_B = random_depths(len(residual_BFD), self.sizes.num_acoustic, 0, share, residual_BFD)
        if self.ema is not None:
            acoustic_BFD, codes_KM, terms = self._euclidean(residual_BFD, depth_B)
        else:
            acoustic_BFD, codes_KM, terms = self._factorized(residual_BFD, depth_B)
        audio_B1T = self.network.decoder((semantic_BFD + acoustic_BFD).transpose(1, 2), None)
        audio_BT = audio_B1T[:, 0].float()
        terms["mel"] = self.mel(audio_BT, batch.audio_BT)
        # Not of the semantic codebook: it does not learn.
        return StepOutput(terms, audio_BT, batch.audio_BT, codebook_use(codes_KM))

    def after_step(self) -> None:
        if self.ema is not None:
            self.ema.update(self._codebooks())

    @torch.no_grad()
    def reconstruct(self, audio_BT: Tensor) -> Tensor:
        all_books = 1 + self.sizes.num_acoustic
        codes_BKF = self.network.encode(self.states(audio_BT), audio_BT, all_books)
        return pad_or_trim(self.network.decode(codes_BKF), audio_BT.shape[-1])

    def weights_for_inference(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    @torch.no_grad()
    def states(self, audio_BT: Tensor) -> list[Tensor]:
        """Return the self-supervised model's hidden states, starting with its first input."""
        ssl = cast(FeatureModel, self.ssl.network)
        return list(ssl(ssl.prepare(audio_BT)))

    def _streams(self, audio_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes_BF and semantic_BFD of codebook 0, and residual_BFD for the others."""
        taps = self.network.taps(self.states(audio_BT))
        codes_BF = self.network.semantic_codes(taps.semantic_BFH)
        residual_BFD = self.network.residual(taps, audio_BT, codes_BF)
        return codes_BF, self.network.semantic_latent(codes_BF), residual_BFD.float()

    def _fit_semantic_proj(self, latent_MD: Tensor, codes_M: Tensor) -> Tensor:
        """Fit the projection of codebook 0 to the acoustic latents; return their residual.

        With a random projection the residual is mostly codebook 0's own word (0.8 of its variance
        behind Whisper tiny.en), and the first acoustic codebook repeats codebook 0.
        """
        words_MH, latent64_MD = self.centroids_NH[codes_M].double(), latent_MD.double()
        mean_H, mean_D = words_MH.mean(0), latent64_MD.mean(0)
        words_MH -= mean_H
        gram_HH = words_MH.T @ words_MH
        gram_HH.diagonal().add_(_RIDGE * gram_HH.diagonal().mean())
        weight_HD = torch.linalg.solve(gram_HH, words_MH.T @ (latent64_MD - mean_D))
        proj = self.network.semantic_proj
        proj.weight.copy_(weight_HD.T)
        proj.bias.copy_(mean_D - mean_H @ weight_HD)
        broadcast_from_first(proj.weight, proj.bias)
        return latent_MD - self.network.semantic_latent(codes_M)

    def _euclidean(
        self, residual_BFD: Tensor, depth_B: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        stages = self._codebooks().stages(residual_BFD.flatten(0, 1))
        if self.training:
            assert self.ema is not None
            self.ema.observe(stages.codes_KM, stages.inputs_KMD, stages.inputs_KMD)
        distance_KM = (stages.inputs_KMD - stages.words_KMD).square().mean(-1)
        kept_KB = torch.arange(len(distance_KM), device=depth_B.device)[:, None] < depth_B
        words_KBFD = stages.words_KMD.view(-1, *residual_BFD.shape)
        sum_BFD = (words_KBFD * kept_KB[..., None, None]).sum(0)
        acoustic_BFD = straight_through(residual_BFD, sum_BFD) * kept_KB[0, :, None, None]
        return acoustic_BFD, stages.codes_KM, {"commitment": distance_KM.mean(1).sum()}

    def _factorized(
        self, residual_BFD: Tensor, depth_B: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        assert not isinstance(self.network.quantizer, ResidualQuantizer)
        coded = self.network.quantizer.quantize(residual_BFD, depth_B)
        losses = {"commitment": coded.commitment_B.mean(), "codebook": coded.codebook_B.mean()}
        return coded.x_BFD, coded.codes_KBF.flatten(1), losses

    def _codebooks(self) -> ResidualQuantizer:
        return cast(ResidualQuantizer, self.network.quantizer)

    def _continue_from_codebooks(self, counts_KN: Tensor) -> None:
        """Continue training from the acoustic codebooks."""
        assert self.ema is not None
        self.ema.reset(self._codebooks(), counts_KN)
        self.has_codebooks.fill_(True)
