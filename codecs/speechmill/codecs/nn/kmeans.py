"""k-means: Lloyd's algorithm to initialise codebooks, and mini-batches for whole corpora."""

import torch
from torch import Tensor, nn

from speechmill.codecs.errors import InvalidConfig

_CHUNK = 2**26  # distances in memory at once
_STARVED = 0.01  # of the largest cluster's points; a centroid with fewer moves away
_PATIENCE = 10  # points per centroid between two searches for starved ones


def kmeans(points_MD: Tensor, count: int, iterations: int) -> Tensor:
    """Return centroids_ND; an empty cluster moves to a random point.

    If there are fewer points than clusters, points are repeated. Random numbers come from torch's
    global generator.
    """
    centroids_ND = points_MD[_draw(len(points_MD), count, points_MD.device)].clone()
    for _ in range(iterations):
        nearest_M = nearest_centroids(points_MD, centroids_ND)
        size_N = torch.bincount(nearest_M, minlength=count)
        sum_ND = torch.zeros_like(centroids_ND).index_add_(0, nearest_M, points_MD)
        centroids_ND = sum_ND / size_N.clamp(min=1)[:, None]
        empty_E = torch.nonzero(size_N == 0)[:, 0]
        centroids_ND[empty_E] = points_MD[_draw(len(points_MD), len(empty_E), points_MD.device)]
    return centroids_ND


def nearest_centroids(points_MD: Tensor, centroids_ND: Tensor) -> Tensor:
    """Return the index of the nearest centroid of each point; the lowest wins a tie."""
    norm_N = centroids_ND.square().sum(-1)
    chunks = torch.split(points_MD, max(1, _CHUNK // len(centroids_ND)))
    return torch.cat([torch.addmm(norm_N, c, centroids_ND.T, alpha=-2).argmin(-1) for c in chunks])


def _draw(size: int, count: int, device: torch.device) -> Tensor:
    """Return `count` random indices, which repeat only after all have occurred."""
    rounds = [torch.randperm(size, device=device) for _ in range(-(-count // size))]
    return torch.cat(rounds)[:count] if rounds else torch.empty(0, dtype=torch.long, device=device)


class MiniBatchKMeans(nn.Module):
    """Moves each centroid to the mean of all points assigned to it so far (Sculley, WWW 2010).

    Periodically, centroids with very few points move to random points. Random numbers come from
    torch's global generator; the rest of an update's input is in the state dict.
    """

    centroids_ND: Tensor
    counts_N: Tensor
    since_search: Tensor

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("centroids_ND", torch.zeros(count, dim))
        self.register_buffer("counts_N", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("since_search", torch.zeros((), dtype=torch.long))

    def begin(self, points_MD: Tensor, restarts: int) -> None:
        """Start from the best of several k-means++ seedings.

        Raises `InvalidConfig` if there are fewer different points than centroids.
        """
        tries = [
            kmeans_plus_plus(points_MD, len(self.centroids_ND)) for _ in range(max(1, restarts))
        ]
        self.centroids_ND.copy_(min(tries, key=lambda found: found[1])[0])

    def update(self, points_MD: Tensor) -> Tensor:
        """Move the centroids by a batch; return the mean squared distance before that."""
        nearest_M = nearest_centroids(points_MD, self.centroids_ND)
        distance = (points_MD - self.centroids_ND[nearest_M]).square().sum(-1).mean()
        size_N = torch.bincount(nearest_M, minlength=len(self.counts_N))
        sum_ND = torch.zeros_like(self.centroids_ND).index_add_(0, nearest_M, points_MD)
        self.counts_N += size_N
        share_N1 = 1 / self.counts_N.clamp(min=1).float()[:, None]
        self.centroids_ND += (sum_ND - size_N[:, None] * self.centroids_ND) * share_N1
        self.since_search += len(points_MD)
        if self.since_search >= _PATIENCE * len(self.counts_N):
            self._move_starved(points_MD)
            self.since_search.zero_()
        return distance

    def _move_starved(self, points_MD: Tensor) -> None:
        starved_N = self.counts_N < _STARVED * self.counts_N.max()
        moved_E = torch.nonzero(starved_N)[: len(points_MD), 0]
        if len(moved_E):
            self.centroids_ND[moved_E] = points_MD[
                _draw(len(points_MD), len(moved_E), moved_E.device)
            ]
            self.counts_N[moved_E] = self.counts_N[~starved_N].min()


def kmeans_plus_plus(points_MD: Tensor, count: int) -> tuple[Tensor, float]:
    """Return centroids_ND by k-means++ (Arthur and Vassilvitskii, SODA 2007), and their inertia.

    Each next centroid is a random point, with a probability proportional to its squared distance
    from the nearest centroid so far.
    """
    first = int(torch.randint(len(points_MD), ()))
    chosen, distance_M = [first], (points_MD - points_MD[first]).square().sum(-1)
    while len(chosen) < count:
        if not distance_M.any():
            raise InvalidConfig(
                f"there are {len(chosen)} different points for {count} centroids; give more shards "
                "or a smaller codebook"
            )
        chosen.append(int(torch.multinomial(distance_M, 1)))
        distance_M = distance_M.minimum((points_MD - points_MD[chosen[-1]]).square().sum(-1))
    return points_MD[chosen], float(distance_M.sum())
