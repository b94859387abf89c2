"""Pooled self-supervised features of a waveform, which the semantic stream quantizes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.transforms import Resample

from speechmill.codecs.dualcodec.config import FBANK_STACK, SEMANTIC_RATE, DualCodecConfig
from speechmill.codecs.dualcodec.fbank import StackedFbank, fbank_windows
from speechmill.codecs.dualcodec.w2vbert import W2VBert
from speechmill.codecs.nn.masks import mask_padding_frames


class SemanticFeatures(nn.Module):
    """Resampling, filter bank, w2v-BERT, standardisation, pooling (DualCodec, section 2.1).

    `mean_D` and `var_D` are the features' statistics over the training corpus.
    """

    mean_D: Tensor
    std_D: Tensor

    def __init__(
        self,
        config: DualCodecConfig,
        w2vbert: W2VBert,
        mean_D: Tensor,
        var_D: Tensor,
        *,
        keep_partial: bool = False,
    ) -> None:
        super().__init__()
        self.sample_rate = config.sample_rate
        self.factor = config.semantic_downsample_factor
        self.keep_partial = keep_partial
        # the authors' filter, rounded like theirs to float32, but applied in float64
        with torch.device("cpu"):  # the constructor computes the kernel
            resample = Resample(config.sample_rate, SEMANTIC_RATE, dtype=torch.float32)
        self.resample = resample.double()
        self.fbank = StackedFbank(config.w2vbert.num_mel_bins)
        self.w2vbert = w2vbert
        self.register_buffer("mean_D", mean_D.float())
        self.register_buffer("std_D", var_D.float().sqrt())

    def forward(self, audio_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Return pooled_BND; audio must be zero after `num_samples_B`."""
        features_BSI, windows_B = self.fbank_features(audio_BT, num_samples_B)
        hidden_BSD = self.w2vbert(features_BSI, attended(windows_B))
        return self.pool(self.standardise(hidden_BSD), windows_B)

    def fbank_features(
        self, audio_BT: Tensor, num_samples_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return features_BSI and the fbank windows of each row, None if all pairs are whole."""
        with torch.autocast(audio_BT.device.type, enabled=False):
            audio_BT = self.resample(audio_BT.double())
            if num_samples_B is not None:
                lengths_B = -(-num_samples_B * SEMANTIC_RATE // self.sample_rate)
                return self.fbank(audio_BT, lengths_B), fbank_windows(lengths_B)
            windows = fbank_windows(audio_BT.shape[1])
            is_odd = windows % FBANK_STACK > 0
            windows_B = torch.full((len(audio_BT),), windows, device=audio_BT.device)
            return self.fbank(audio_BT), windows_B if is_odd else None

    def standardise(self, hidden_BSD: Tensor) -> Tensor:
        return (hidden_BSD.float() - self.mean_D) / self.std_D

    def pool(self, x_BSD: Tensor, windows_B: Tensor | None = None) -> Tensor:
        """Return the means of groups of `factor` frames.

        An incomplete last group is dropped; with `keep_partial` it is the mean of its frames.
        """
        batch, frames, dim = x_BSD.shape
        if not self.keep_partial:
            whole_BSD = x_BSD[:, : frames // self.factor * self.factor]
            return whole_BSD.reshape(batch, -1, self.factor, dim).mean(2)
        if windows_B is None:
            windows_B = torch.full((1,), frames * FBANK_STACK, device=x_BSD.device)
        frames_B = -(-windows_B // FBANK_STACK)
        x_BSD = F.pad(mask_padding_frames(x_BSD, frames_B), (0, 0, 0, -frames % self.factor))
        sum_BND = x_BSD.view(batch, -1, self.factor, dim).sum(2)
        start_N = torch.arange(0, x_BSD.shape[1], self.factor, device=x_BSD.device)
        count_BN = (frames_B[:, None] - start_N).clamp(1, self.factor)
        mean_BND: Tensor = sum_BND / count_BN[..., None]
        return mean_BND


def attended(windows_B: Tensor | None) -> Tensor | None:
    """Return how many frames of each row w2v-BERT may attend to.

    If the last pair of windows lacks one, its frame attends to the others, but in the authors' code
    they do not attend to it.
    """
    return None if windows_B is None else (windows_B // FBANK_STACK).clamp(min=1)
