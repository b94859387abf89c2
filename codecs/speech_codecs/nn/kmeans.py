"""Lloyd's k-means, for codebooks that begin at the data."""

import torch
from torch import Tensor

_CHUNK = 2**26  # distances held at once


def kmeans(points_MD: Tensor, count: int, iterations: int) -> Tensor:
    """Return centroids_ND; an empty cluster moves to a random point.

    Where there are fewer points than clusters the points are repeated. Draws come from torch's
    global generator.
    """
    centroids_ND = points_MD[_draw(len(points_MD), count, points_MD.device)].clone()
    for _ in range(iterations):
        nearest_M = nearest(points_MD, centroids_ND)
        size_N = torch.bincount(nearest_M, minlength=count)
        sum_ND = torch.zeros_like(centroids_ND).index_add_(0, nearest_M, points_MD)
        centroids_ND = sum_ND / size_N.clamp(min=1)[:, None]
        empty_E = torch.nonzero(size_N == 0)[:, 0]
        centroids_ND[empty_E] = points_MD[_draw(len(points_MD), len(empty_E), points_MD.device)]
    return centroids_ND


def nearest(points_MD: Tensor, centroids_ND: Tensor) -> Tensor:
    """Return the index of the nearest centroid of each point; the lowest wins a tie."""
    norm_N = centroids_ND.square().sum(-1)
    chunks = torch.split(points_MD, max(1, _CHUNK // len(centroids_ND)))
    return torch.cat([torch.addmm(norm_N, c, centroids_ND.T, alpha=-2).argmin(-1) for c in chunks])


def _draw(size: int, count: int, device: torch.device) -> Tensor:
    """Return `count` indices, different ones as long as there are any."""
    rounds = [torch.randperm(size, device=device) for _ in range(-(-count // size))]
    return torch.cat(rounds)[:count] if rounds else torch.empty(0, dtype=torch.long, device=device)
