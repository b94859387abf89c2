import pytest


@pytest.fixture(autouse=True, scope="session")
def cache_of_datasets(tmp_path_factory):
    """One cache for all tests, as users have, and no network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        yield
