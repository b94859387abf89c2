"""Fixtures for the whole suite."""

from pathlib import Path

import pytest

from pipeline.storage import Storage
from speech_codecs import Codec, load_codec

pytest_plugins = ["tests.s3_server"]

REPOSITORY = Path(__file__).parent.parent
REAL_SPEECH = REPOSITORY.parent / "shared" / "data" / "clean"


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture(scope="session")
def null_codec() -> Codec:
    return load_codec("null")


@pytest.fixture(scope="session")
def real_speech() -> Path:
    """A folder of real recordings, which is no part of the repository."""
    if not REAL_SPEECH.is_dir():
        pytest.skip("no real speech at ../shared/data/clean beside the checkout")
    return REAL_SPEECH
