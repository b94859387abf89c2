"""The use of codebooks and of a latent, against literal computations."""

import numpy as np
import pytest
import torch

from speechmill.codecs.nn.usage import codebook_use, latent_use


def test_perplexity_is_that_of_the_code_counts() -> None:
    random = np.random.default_rng(0)
    codes_KM = np.stack([random.integers(size, size=500) for size in (3, 40, 2**40)])
    perplexities, used = [], []
    for codes_M in codes_KM:
        share_N = np.unique(codes_M, return_counts=True)[1] / 500
        perplexities.append(np.exp(-(share_N * np.log(share_N)).sum()))
        used.append(len(share_N))
    found = {name: value.item() for name, value in codebook_use(torch.tensor(codes_KM)).items()}
    assert found == {
        "perplexity": pytest.approx(np.mean(perplexities), rel=1e-5),
        "lowest_perplexity": pytest.approx(min(perplexities), rel=1e-5),
        "codes_used": pytest.approx(np.mean(used)),
    }


def test_one_code_has_perplexity_1_and_different_codes_as_many_as_there_are() -> None:
    both = codebook_use(torch.stack([torch.full((50,), 7), torch.arange(50)]))
    assert both["lowest_perplexity"] == 1
    assert both["perplexity"].item() == pytest.approx(51 / 2)
    assert both["codes_used"] == 51 / 2


def test_a_latent_dimension_is_used_if_its_mean_varies_over_the_frames() -> None:
    torch.manual_seed(0)
    deviation_D1 = torch.tensor([1.0, 0.2, 0.05, 0.0])[:, None]
    mu_BDF = 3 + deviation_D1 * torch.randn(4, 4, 100)
    found = latent_use(mu_BDF, torch.full((4, 4, 100), 0.5).log())
    assert found["latent_dims_used"] == 2
    assert found["posterior_variance"].item() == pytest.approx(0.5)


def test_they_do_not_wait_for_the_device() -> None:
    """A tensor on the meta device has no data to wait for."""
    with torch.device("meta"):
        codebook_use(torch.zeros(3, 20, dtype=torch.long))
        latent_use(torch.zeros(2, 8, 20), torch.zeros(2, 8, 20))
