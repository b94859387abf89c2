"""CAM++, a network that embeds voices: the embeddings of one speaker have nearly one direction.

Wang et al.: "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware
Masking", Interspeech 2023, arXiv 2303.00332. Layers have the names of the weights that 3D-Speaker
publishes (Apache-2.0), such as `campplus_cn_en_common.pt`, trained on Chinese and English.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmill.codecs.checkpoint import allocate, load_strict, read_state_dict
from speechmill.codecs.fetch import fetch
from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.quality import RATE

EMBEDDING = 192
BANDS = 80
_MAPS = 32  # channels of the convolutions over time and frequency
_GROWTH = 32  # channels that each dense layer adds
_BOTTLENECK = 128
_BLOCKS = ((12, 1), (24, 2), (16, 2))  # dense layers and their dilation
_SEGMENT = 100  # frames (2 s) that share a context


class CamPlusPlus(nn.Module):
    """From features_BTM of `kaldi_features` to embedding_BE (paper, figure 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = _Head()
        channels = 128
        layers: dict[str, nn.Module] = {
            "tdnn": _named(
                linear=nn.Conv1d(_MAPS * BANDS // 8, channels, 5, stride=2, padding=2, bias=False),
                nonlinear=_norm_relu(channels),
            )
        }
        for index, (depth, dilation) in enumerate(_BLOCKS, start=1):
            layers[f"block{index}"] = _dense_block(channels, depth, dilation)
            channels += depth * _GROWTH
            layers[f"transit{index}"] = _named(
                nonlinear=_norm_relu(channels),
                linear=nn.Conv1d(channels, channels // 2, 1, bias=False),
            )
            channels //= 2
        layers["out_nonlinear"] = _norm_relu(channels)
        layers["stats"] = _Statistics()
        layers["dense"] = _named(
            linear=nn.Conv1d(2 * channels, EMBEDDING, 1, bias=False),
            nonlinear=_named(batchnorm=nn.BatchNorm1d(EMBEDDING, affine=False)),
        )
        self.xvector = _named(**layers)

    def forward(self, features_BTM: Tensor) -> Tensor:
        embedding_BE1: Tensor = self.xvector(self.head(features_BTM.mT))
        return embedding_BE1.squeeze(2)


def kaldi_features(audio_T: Samples) -> Tensor:
    """Log-mel features_TM as Kaldi computes them (25 ms, hop 10 ms), without their mean over time.

    The audio has 16 kHz and at least 25 ms.
    """
    from torchaudio.compliance.kaldi import fbank

    waveform = torch.from_numpy(audio_T)[None].float()
    features_TM: Tensor = fbank(waveform, num_mel_bins=BANDS, sample_frequency=RATE, dither=0.0)
    return features_TM - features_TM.mean(0)


def load_campplus(model: str) -> CamPlusPlus:
    """Load published weights from a path or URL.

    Raises `CheckpointError` if it cannot be fetched or does not hold a state dict of this network.
    """
    network = allocate(CamPlusPlus)
    load_strict(network, read_state_dict(fetch(model)), model)
    return network


class _Head(nn.Module):
    """Convolutions over time and frequency, which keep every frame and an eighth of the bands."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, _MAPS, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_MAPS)
        self.layer1 = nn.Sequential(_Residual(2), _Residual(1))
        self.layer2 = nn.Sequential(_Residual(2), _Residual(1))
        self.conv2 = nn.Conv2d(_MAPS, _MAPS, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(_MAPS)

    def forward(self, features_BMT: Tensor) -> Tensor:
        maps_BCMT = F.relu(self.bn1(self.conv1(features_BMT[:, None])))
        maps_BCMT = self.layer2(self.layer1(maps_BCMT))
        return F.relu(self.bn2(self.conv2(maps_BCMT))).flatten(1, 2)


class _Residual(nn.Module):
    def __init__(self, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(_MAPS, _MAPS, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_MAPS)
        self.conv2 = nn.Conv2d(_MAPS, _MAPS, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(_MAPS)
        fewer_bands = nn.Conv2d(_MAPS, _MAPS, 1, stride=(stride, 1), bias=False)
        self.shortcut = (
            nn.Sequential(fewer_bands, nn.BatchNorm2d(_MAPS)) if stride > 1 else nn.Identity()
        )

    def forward(self, x_BCMT: Tensor) -> Tensor:
        inner_BCMT = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_BCMT)))))
        return F.relu(inner_BCMT + self.shortcut(x_BCMT))


def _dense_block(channels: int, depth: int, dilation: int) -> nn.Sequential:
    layers = (_DenseLayer(channels + i * _GROWTH, dilation) for i in range(depth))
    return _named(**{f"tdnnd{i}": layer for i, layer in enumerate(layers, start=1)})


class _DenseLayer(nn.Module):
    """Appends `_GROWTH` channels to its input."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.nonlinear1 = _norm_relu(channels)
        self.linear1 = nn.Conv1d(channels, _BOTTLENECK, 1, bias=False)
        self.nonlinear2 = _norm_relu(_BOTTLENECK)
        self.cam_layer = _ContextMask(dilation)

    def forward(self, x_BCT: Tensor) -> Tensor:
        hidden_BCT = self.nonlinear2(self.linear1(self.nonlinear1(x_BCT)))
        return torch.cat([x_BCT, self.cam_layer(hidden_BCT)], dim=1)


class _ContextMask(nn.Module):
    """A convolution times a mask, which depends on the means of the clip and of each segment."""

    def __init__(self, dilation: int):
        super().__init__()
        self.linear_local = nn.Conv1d(
            _BOTTLENECK, _GROWTH, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.linear1 = nn.Conv1d(_BOTTLENECK, _BOTTLENECK // 2, 1)
        self.linear2 = nn.Conv1d(_BOTTLENECK // 2, _GROWTH, 1)

    def forward(self, x_BCT: Tensor) -> Tensor:
        context_BCT = x_BCT.mean(2, keepdim=True) + _segment_means(x_BCT)
        mask_BCT = torch.sigmoid(self.linear2(F.relu(self.linear1(context_BCT))))
        local_BCT: Tensor = self.linear_local(x_BCT)
        return local_BCT * mask_BCT


def _segment_means(x_BCT: Tensor) -> Tensor:
    """Replace each value by the mean of its segment; the last segment may be shorter."""
    means_BCS = F.avg_pool1d(x_BCT, _SEGMENT, ceil_mode=True)
    return means_BCS.repeat_interleave(_SEGMENT, dim=2)[..., : x_BCT.shape[2]]


class _Statistics(nn.Module):
    """Mean and standard deviation over time, as one frame."""

    def forward(self, x_BCT: Tensor) -> Tensor:
        std_BC1, mean_BC1 = torch.std_mean(x_BCT, dim=2, keepdim=True)
        return torch.cat([mean_BC1, std_BC1], dim=1)


def _norm_relu(channels: int) -> nn.Sequential:
    return _named(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU())


def _named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))
