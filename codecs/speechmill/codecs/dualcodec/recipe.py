"""Training of DualCodec: both streams and the decoder together, on a frozen w2v-BERT.

Follows section 2 of arXiv 2505.13000 and the authors' public trainer, with its loss weights and
probabilities.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs.dualcodec.config import DualCodecConfig
from speechmill.codecs.dualcodec.model import DualCodecNetwork
from speechmill.codecs.dualcodec.semantic import SemanticFeatures
from speechmill.codecs.dualcodec.w2vbert import W2VBert
from speechmill.codecs.dualcodec.weights import load_trainable, load_w2vbert, published, read_stats
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.losses import dac_mel_loss
from speechmill.codecs.nn.masks import pad_or_trim
from speechmill.codecs.nn.usage import codebook_use
from speechmill.codecs.recipe import (
    Frozen,
    Recipe,
    StepOutput,
    TrainingBatch,
    merge_weights,
    random_depths,
)

_WEIGHTS = {  # all of the authors' trainer
    "mel": 15.0,
    "low_band": 15.0,
    "semantic": 15.0,
    "commitment": 0.25,
    "codebook": 1.0,
    "semantic_commitment": 0.25,
    "semantic_codebook": 1.0,
    "adversarial": 1.0,
    "feature": 2.0,
}
_MEL_POWER = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DualCodecRecipeConfig:
    """Settings of the training."""

    dropout: float = 1.0  # share of utterances decoded from 1 to all acoustic codebooks, at random
    semantic_only: float = 0.125  # share of steps decoded from the semantic codebook alone
    low_share: float = 0.1  # share of the mel bands, the lowest, that count twice in such a step
    mel_ffts: tuple[int, ...] = (256, 512, 1024, 2048)
    mel_bands: tuple[int, ...] = (40, 80, 160, 320)
    weights: dict[str, float] = field(default_factory=dict)  # by loss; replace the defaults

    def __post_init__(self) -> None:
        for name in ("dropout", "semantic_only", "low_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidConfig(f"{name} is {getattr(self, name)}; give a share, 0 to 1")


class DualCodecRecipe(Recipe):
    """One phase: everything but w2v-BERT."""

    phases = ("codec",)

    def __init__(self, sizes: DualCodecConfig, config: DualCodecRecipeConfig) -> None:
        super().__init__()
        self.sizes, self.config = sizes, config
        self.sample_rate, self.hop_length = sizes.sample_rate, sizes.hop_length
        self.weights = merge_weights(_WEIGHTS, config.weights)
        if self.weight("semantic") and sizes.semantic_in_dim != sizes.latent_dim:
            raise InvalidConfig(
                f"latent_dim is {sizes.latent_dim}, the features that it must match have "
                f"{sizes.semantic_in_dim} dimensions; make them equal or the weight semantic 0"
            )
        width = sizes.semantic_in_dim
        w2vbert = W2VBert(sizes.w2vbert)
        self.semantic = Frozen(
            SemanticFeatures(sizes, w2vbert, torch.zeros(width), torch.ones(width))
        )
        self.network = DualCodecNetwork(sizes)
        scales = (self.sample_rate, config.mel_ffts, config.mel_bands)
        self.mel = dac_mel_loss(*scales, power=_MEL_POWER)
        self.low_band = dac_mel_loss(*scales, power=_MEL_POWER, share=config.low_share)

    def load_semantic(self, checkpoint: Path, stats: Path) -> None:
        """Load w2v-BERT and the statistics of its features."""
        semantic = cast(SemanticFeatures, self.semantic.network)
        load_w2vbert(semantic.w2vbert, self.sizes, checkpoint)
        mean_D, var_D = read_stats(self.sizes, stats)
        semantic.mean_D.copy_(mean_D)
        semantic.std_D.copy_(var_D.float().sqrt())

    def start_from(self, path: Path) -> None:
        """Load the weights of a checkpoint, published or from training."""
        load_trainable(self.network, self.sizes, path)

    def begin_phase(self, phase: str) -> None:
        self.train_only("network")

    def forward(self, batch: TrainingBatch) -> StepOutput:
        network, audio_BT = self.network, batch.audio_BT
        pooled_BND = self.semantic(audio_BT)
        word = network.semantic_quantizer.quantize(network.semantic_encoder(pooled_BND, None))
        semantic_BND = network.semantic_decoder(word.x_BFD, None).float()
        latent_BND = network.acoustic_latent(audio_BT, pooled_BND.shape[1]).float()
        only_semantic = self.training and bool(torch.rand(()) < self.config.semantic_only)
        depth_B = self._depths(len(audio_BT), latent_BND) * (not only_semantic)
        acoustic = network.acoustic_quantizer.quantize(latent_BND - semantic_BND, depth_B)
        decoded_BDN = (semantic_BND + acoustic.x_BFD).transpose(1, 2)
        ours_BT = network.acoustic_decoder(decoded_BDN, None)[:, 0].float()
        target_BT = audio_BT[:, : ours_BT.shape[1]]
        terms = {
            "mel": self.mel(ours_BT, target_BT),
            "commitment": acoustic.commitment_B.mean(),
            "codebook": acoustic.codebook_B.mean(),
            "semantic_commitment": word.commitment_B.mean(),
            "semantic_codebook": word.codebook_B.mean(),
        }
        if self.weight("semantic"):
            terms["semantic"] = F.mse_loss(semantic_BND, pooled_BND)
        if only_semantic:
            terms["low_band"] = self.low_band(ours_BT, target_BT)
        metrics = codebook_use(torch.cat([word.codes_KBF, acoustic.codes_KBF]).flatten(1))
        return StepOutput(terms, ours_BT, target_BT, metrics)

    @torch.no_grad()
    def reconstruct(self, audio_BT: Tensor) -> Tensor:
        books = len(self.sizes.codebook_sizes)
        codes_BKN = self.network.encode(audio_BT, self.semantic(audio_BT), books)
        return pad_or_trim(self.network.decode(codes_BKN), audio_BT.shape[-1])

    def weights_for_inference(self) -> dict[str, Tensor]:
        return published(self.network.state_dict(), self.sizes)

    def _depths(self, batch: int, like: Tensor) -> Tensor:
        share = self.config.dropout if self.training else 0.0
        return random_depths(batch, self.sizes.n_codebooks, 1, share, like)
