"""The Snake activation."""

import torch
from torch import Tensor, nn

_EPS = 1e-9


def snake(x: Tensor) -> Tensor:
    """Return x + sin^2(x): Snake (arXiv 2006.08195, eq. 3) with the constant alpha = 1.

    ESPnet's codecs hold alpha at 1 like this; Descript's DAC learns one per channel.
    """
    sine = torch.sin(x)
    return torch.addcmul(x, sine, sine)


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha with a learned alpha per channel (arXiv 2006.08195, eq. 3).

    `alpha_shape` is that of the checkpoint, with as many elements as there are channels; they are
    the last dimension of the input, or with `channels_last=False` the second of (B, C, T).
    """

    def __init__(self, *alpha_shape: int, channels_last: bool = True) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(alpha_shape))
        self.view = (-1,) if channels_last else (-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha.view(self.view)
        sine = torch.sin(alpha * x)
        return torch.addcmul(x, sine, sine / (alpha + _EPS))
