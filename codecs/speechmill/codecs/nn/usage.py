"""How much of its codebooks or of its latent a recipe uses, as metrics of a training step.

Nothing here waits for a GPU. A trainer knows these names, and says if one of the two collapses.
"""

import torch
from torch import Tensor

LOWEST_PERPLEXITY = "lowest_perplexity"
LATENT_DIMS_USED = "latent_dims_used"
_ACTIVE = 1e-2  # variance of the posterior's mean above which a dimension is in use


@torch.no_grad()
def codebook_use(codes_KM: Tensor) -> dict[str, Tensor]:
    """Return the use of K codebooks by M frames; codebooks of any size, also of different ones.

    The perplexity of a codebook is exp(entropy of its codes in nats), from 1 to the smaller of M
    and its size: as many equally frequent codes have this entropy. `perplexity` is the mean over
    codebooks, `lowest_perplexity` that of the codebook that is used least, and `codes_used` the
    number of different codes, averaged over codebooks.
    """
    sorted_KM = codes_KM.sort(dim=1).values
    right_KM = torch.searchsorted(sorted_KM, sorted_KM, right=True)
    count_KM = (right_KM - torch.searchsorted(sorted_KM, sorted_KM)).float()
    shares_KM = count_KM / codes_KM.shape[1]  # of all frames, those with the code of this frame
    perplexity_K = (-shares_KM.log().mean(1)).exp()
    used_K = 1 + (sorted_KM.diff(dim=1) != 0).sum(1)
    return {
        "perplexity": perplexity_K.mean(),
        LOWEST_PERPLEXITY: perplexity_K.min(),
        "codes_used": used_K.float().mean(),
    }


@torch.no_grad()
def latent_use(mu_BDF: Tensor, logvar_BDF: Tensor) -> dict[str, Tensor]:
    """Return the use of a Gaussian posterior's dimensions by all frames of a batch.

    `latent_dims_used` counts the dimensions whose mean varies from frame to frame ("active units"
    of arXiv 1509.00519, section 5.2); a collapsed one has the prior's mean in every frame.
    `posterior_variance` is 1 where the posterior is the prior, and near 0 where it is certain.
    """
    variance_D = mu_BDF.float().var((0, 2), correction=0)
    return {
        LATENT_DIMS_USED: (variance_D > _ACTIVE).sum().float(),
        "posterior_variance": logvar_BDF.float().exp().mean(),
    }
