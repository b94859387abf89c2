"""The settings of the commands: every key with its type and its default."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from speechmill.codecs import CodecInfo, codec_info
from speechmill.codecs.api import PRECISIONS
from speechmill.codecs.registry import UNTRAINED, file_arguments
from speechmill.pipeline.audio.filters import FilterSettings
from speechmill.pipeline.audio.recordings import ClipAudioSettings
from speechmill.pipeline.audio.resample import AudioSettings
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.audio.segment import SegmentSettings
from speechmill.pipeline.enhance.api import EnhancerSettings
from speechmill.pipeline.enhance.gate import GateSettings
from speechmill.pipeline.errors import check_choice
from speechmill.pipeline.paths import PATH, path_entries, path_or
from speechmill.pipeline.quality.testset import TestSetSettings
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.shards.packing import PackSettings
from speechmill.pipeline.tokenize.batching import BatchSettings
from speechmill.pipeline.tokenize.decode import DecodeSettings


def default_device() -> str:
    """Return `cuda` if there is a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def file_options(codec: Any) -> frozenset[str]:
    """Return the options of a section's codec that are paths."""
    return file_arguments(codec.name or "null")[0]


@dataclass
class CodecConfig:
    """Which codec encodes, and with which weights."""

    name: str | None = MISSING  # `speechmill codecs` lists them; YAML reads `null` as no value
    # Path, s3://, hf:// or untrained; default: the published weights.
    checkpoint: str | None = field(default=None, metadata=path_or(UNTRAINED))
    sha256: str | None = None  # of the checkpoint's file; another file is an error
    # JSON of an architecture of your own; default: the variant's.
    config: str | None = field(default=None, metadata=PATH)
    precision: str = "fp32"  # fp32 | tf32 | bf16 | fp16
    compile: bool = False  # compile the layers; takes minutes at the start
    device: str | None = None  # default: cuda if workers.num_gpus is above 0, else cpu
    # More arguments of this codec's loader.
    options: dict[str, Any] = field(default_factory=dict, metadata=path_entries(file_options))

    def __post_init__(self) -> None:
        check_choice("codec.precision", self.precision, PRECISIONS)

    def loader_options(self, device: str) -> dict[str, Any]:
        """Return the arguments of `load_codec`; `device` is used if none is configured."""
        return {
            "name": self.name or "null",
            "checkpoint": self.checkpoint,
            "sha256": self.sha256,
            "config": self.config,
            "precision": self.precision,
            "device": self.device or device,
            **({"compile": True} if self.compile else {}),
            **self.options,
        }

    def info(self) -> CodecInfo:
        """Return the facts of the codec without loading it."""
        options = self.loader_options("cpu")
        del options["device"], options["precision"]
        return codec_info(options.pop("name"), **options)


@dataclass
class TokenizeConfig:
    """The settings of `speechmill tokenize`."""

    # Tars, brace ranges, globs, folders, .txt manifests.
    shards: list[str] = field(default=MISSING, metadata=PATH)
    # Folder of the token dataset, local or s3://…
    output: str = field(default=MISSING, metadata=PATH)
    codec: CodecConfig = field(default_factory=CodecConfig)
    codecs: list[Any] = field(default_factory=list)  # names, or sections like `codec`, in one pass
    audio: ClipAudioSettings = field(default_factory=ClipAudioSettings)
    limits: Limits = field(default_factory=Limits)
    segment: SegmentSettings = field(default_factory=SegmentSettings)
    filters: FilterSettings = field(default_factory=FilterSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    ray: RaySettings = field(default_factory=RaySettings)
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec
    storage_patience: float = 300.0  # s to retry one operation

    def decode_settings(self) -> DecodeSettings:
        return DecodeSettings(self.audio, self.limits, self.segment, self.filters, batch=self.batch)

    def codec_options(self) -> dict[str, Any]:
        """Return the arguments of `load_codec`."""
        return self.codec.loader_options("cuda" if self.workers.num_gpus else "cpu")


@dataclass
class PackConfig(PackSettings):
    """The settings of `speechmill pack`."""

    source: str = field(default=MISSING, metadata=PATH)
    output: str = field(default=MISSING, metadata=PATH)
    # Folder that paths of a manifest and links may lead to, besides that of the source.
    root: str | None = field(default=None, metadata=PATH)
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec
    storage_patience: float = 300.0  # s to retry one operation


@dataclass
class EnhanceConfig:
    """The settings of `speechmill enhance`."""

    # Tars, brace ranges, globs, folders, .txt manifests.
    shards: list[str] = field(default=MISSING, metadata=PATH)
    # Folder of the paired shards, local or s3://…
    output: str = field(default=MISSING, metadata=PATH)
    enhancer: EnhancerSettings = MISSING
    gate: GateSettings = field(default_factory=GateSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    workers: WorkerSettings = field(default_factory=lambda: WorkerSettings(num_gpus=0))
    ray: RaySettings = field(default_factory=RaySettings)
    storage_patience: float = 300.0  # s to retry one operation
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec


@dataclass
class EvaluatedCodec(CodecConfig):
    """A codec, or a checkpoint of one, that is compared with others."""

    device: str | None = None  # default: the device of the evaluation
    num_codebooks: list[int] | None = None  # decode with only the first 1, 2, …; default: all


@dataclass
class MetricConfig:
    """The metrics."""

    # Between clip and reconstruction, at 16 kHz: pesq, stoi, si_sdr, mel, stft, visqol.
    signal: list[str] = field(default_factory=lambda: ["pesq", "stoi", "si_sdr", "mel", "stft"])
    # Path or URL of DNSMOS P.835's sig_bak_ovr.onnx.
    dnsmos: str | None = field(default=None, metadata=PATH)
    distillmos: bool = False  # rate clips by DistillMOS
    # Path or URL of CAM++ (.pt), Hugging Face id or folder of an x-vector model, module:function.
    speaker: str | None = None
    # Hugging Face id or folder of a speech recognizer, module:function.
    recognizer: str | None = None
    # Arguments of its generation, such as language and task.
    recognizer_options: dict[str, Any] = field(default_factory=dict)
    normalizer: str = "simple"  # simple | whisper_english | whisper_basic, of text and transcript
    processes: int | None = None  # processes that score in parallel; default: one for each core


@dataclass
class BaselineConfig:
    """Other codecs that are measured on the same clips."""

    opus: list[float] = field(default_factory=list)  # bit rates, kbit/s


@dataclass
class EvaluateConfig:
    """The settings of `speechmill evaluate`."""

    # Shards, or folders or manifests of audio.
    clips: list[str] = field(default=MISSING, metadata=PATH)
    output: str = field(default=MISSING, metadata=PATH)  # folder for results.json and report.html
    codecs: dict[str, EvaluatedCodec] = MISSING  # by the label under which they are compared
    # Clean twins of noisy clips, matched by key.
    references: list[str] | None = field(default=None, metadata=PATH)
    reference_member: str | None = None  # or: suffix of the clean version in the same sample
    max_clips: int | None = None  # evenly spaced over the keys
    device: str | None = None  # default: cuda if there is a GPU, else cpu
    metrics: MetricConfig = field(default_factory=MetricConfig)
    baselines: BaselineConfig = field(default_factory=BaselineConfig)
    report_clips: int = 6  # with spectrograms and players in the report
    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec
    storage_patience: float = 300.0  # s to retry one operation

    def test_set(self) -> TestSetSettings:
        return TestSetSettings(self.clips, self.references, self.reference_member, self.max_clips)
