"""What the rates and kernels of a chain of strided layers add up to; imports no torch."""

from math import prod


def receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return how many input columns the convolutions' one output column sees."""
    steps = (prod(strides[:i]) for i in range(len(strides)))
    return 1 + sum((kernel - 1) * step for kernel, step in zip(kernels, steps, strict=True))


def missing_columns(rates: tuple[int, ...]) -> int:
    """Return how many columns transposed convolutions fall short of whole frames.

    One of kernel 2 x rate whose padding is half the rate, rounded up, gives a column too few where
    the rate is odd, which later rates multiply.
    """
    return sum(rate % 2 * prod(rates[i + 1 :]) for i, rate in enumerate(rates))
