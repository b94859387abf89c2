"""One of the codecs that a run tokenizes with."""

from dataclasses import dataclass
from typing import Any

from speechmill.codecs.api import CodecInfo


@dataclass(frozen=True)
class Target:
    """A codec, and the dataset for its tokens."""

    output: str
    codec: CodecInfo
    codec_options: dict[str, Any]  # what `load_codec` takes
