"""The job of `speechmill tokenize`, as a pool sends it to its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import DecodeSettings
from speechmill.pipeline.tokenize.writer import CodecOutput

if TYPE_CHECKING:
    from speechmill.pipeline.tokenize.encode import Tokenizer


@dataclass(frozen=True)
class TokenizeJob:
    """Shards to the parts of token datasets, one for each codec."""

    outputs: tuple[CodecOutput, ...]
    storage: Storage
    decode: DecodeSettings

    @property
    def output(self) -> str:
        return self.outputs[0].output

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    @property
    def packages(self) -> tuple[str, ...]:
        """Those of the codecs and of the settings."""
        found = {name for output in self.outputs for name in output.packages}
        return tuple(sorted(found | self.decode.packages))

    @property
    def waiting_shards(self) -> int:
        return max(output.waiting_shards for output in self.outputs)

    @property
    def object_mb(self) -> float:
        """Size of a batch of float32 samples."""
        highest = max(output.codec.sample_rate for output in self.outputs)
        return self.decode.batch.seconds * highest * 4 / 1e6

    def load(self) -> Tokenizer:
        """Load the codecs; raises `CheckpointError` if one differs from that of the driver."""
        from speechmill.pipeline.tokenize.encode import Tokenizer

        return Tokenizer(self.outputs, self.storage, self.decode)
