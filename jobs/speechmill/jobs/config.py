"""Configurations: a YAML file, overrides on the command line, and a schema that knows every key."""

import io
import re
from dataclasses import dataclass, field, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from speechmill.codecs.registry import UNTRAINED
from speechmill.pipeline.audio.decoders import Limits
from speechmill.pipeline.audio.filters import FilterSettings
from speechmill.pipeline.audio.resample import AudioSettings
from speechmill.pipeline.audio.segment import SegmentSettings
from speechmill.pipeline.enhance.api import EnhancerSettings
from speechmill.pipeline.enhance.gate import GateSettings
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality.testset import TestSetSettings
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.shards.packing import PackSettings
from speechmill.pipeline.storage import join
from speechmill.pipeline.tokenize.batching import BatchSettings
from speechmill.pipeline.tokenize.decode import DecodeSettings

_SECRET = re.compile("key|secret|token|password|credential|connection_string", re.IGNORECASE)
_HIDDEN = "***"


@dataclass
class CodecConfig:
    """Which codec encodes, and with which weights."""

    name: str | None = MISSING  # `speechmill codecs` lists them; YAML reads `null` as no value
    checkpoint: str | None = None  # path, s3://, hf:// or untrained; none: the published weights
    sha256: str | None = None  # of the checkpoint's file, where another one is an error
    config: str | None = None  # JSON of an architecture of your own; default: the variant's
    precision: str = "fp32"
    compile: bool = False  # takes minutes at the start, and pays on GPUs
    device: str | None = None  # default: cuda where workers.num_gpus is above 0, else cpu
    options: dict[str, Any] = field(default_factory=dict)  # more arguments of this codec's loader

    def loader_options(self, device: str) -> dict[str, Any]:
        """What `speechmill.codecs.load_codec` takes; `device` is for where none is configured."""
        return {
            "name": self.name or "null",
            "checkpoint": _absolute(self.checkpoint),
            "sha256": self.sha256,
            "config": _absolute(self.config),
            "precision": self.precision,
            "device": self.device or device,
            **({"compile": True} if self.compile else {}),
            **self.options,
        }


def _absolute(file: str | None) -> str | None:
    """The path as a worker finds it, whose working directory is another; a url as it is."""
    if file is None or file == UNTRAINED or "://" in file:
        return file
    return str(Path(file).expanduser().absolute())


@dataclass
class TokenizeConfig:
    """All that `speechmill tokenize` can be told."""

    shards: list[str] = MISSING  # tars, brace ranges, globs, folders, .txt manifests
    output: str = MISSING  # folder of the token dataset, local or s3://…
    codec: CodecConfig = field(default_factory=CodecConfig)
    codecs: list[Any] = field(default_factory=list)  # several: names, or sections like `codec`
    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    segment: SegmentSettings = field(default_factory=SegmentSettings)
    filters: FilterSettings = field(default_factory=FilterSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    ray: RaySettings = field(default_factory=RaySettings)
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec
    storage_patience: float = 300.0  # s for which one operation is tried again

    def decode_settings(self) -> DecodeSettings:
        return DecodeSettings(self.audio, self.limits, self.segment, self.filters, self.batch)

    def for_each_codec(self) -> "list[TokenizeConfig]":
        """One configuration for each of `codecs`, into a folder of its name; else this one.

        Raises `InputError` for entries that are none.
        """
        if not self.codecs:
            return [self]
        sections = [_codec_section(self.codec, n, one) for n, one in enumerate(self.codecs)]
        names = [section.name or "null" for section in sections]
        if len(set(names)) < len(names):
            raise InputError(f"codecs names one codec twice: {', '.join(names)}")
        return [
            replace(self, codec=section, codecs=[], output=join(self.output, name))
            for section, name in zip(sections, names, strict=True)
        ]

    def codec_options(self) -> dict[str, Any]:
        """What `speechmill.codecs.load_codec` takes."""
        return self.codec.loader_options("cuda" if self.workers.num_gpus else "cpu")


def _codec_section(common: CodecConfig, position: int, given: Any) -> CodecConfig:
    """One entry of `codecs`: a name or a section, over what `codec` says of all of them."""
    section = OmegaConf.create(given if isinstance(given, dict) else {"name": given})
    known = OmegaConf.structured(common)
    _check_keys(section, known, f"codecs[{position}].")
    try:
        merged = OmegaConf.to_object(OmegaConf.merge(known, section))
    except OmegaConfBaseException as error:
        raise InputError(f"codecs[{position}].{str(error).splitlines()[0]}") from error
    assert isinstance(merged, CodecConfig)
    return merged


@dataclass
class PackConfig(PackSettings):
    """All that `speechmill pack` can be told."""

    source: str = MISSING
    output: str = MISSING
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec


@dataclass
class StatusConfig:
    """All that `speechmill status` can be told."""

    output: str = MISSING
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec


@dataclass
class EnhanceConfig:
    """All that `speechmill enhance` can be told."""

    shards: list[str] = MISSING  # tars, brace ranges, globs, folders, .txt manifests
    output: str = MISSING  # folder of the paired shards, local or s3://…
    enhancer: EnhancerSettings = MISSING
    gate: GateSettings = field(default_factory=GateSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    workers: WorkerSettings = field(default_factory=lambda: WorkerSettings(num_gpus=0))
    ray: RaySettings = field(default_factory=RaySettings)
    storage_patience: float = 300.0  # s for which one operation is tried again
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec


@dataclass
class EvaluatedCodec(CodecConfig):
    """One of the codecs, or checkpoints of one codec, that are compared."""

    num_codebooks: list[int] | None = None  # decode with only the first 1, 2, …; default: all


@dataclass
class MetricConfig:
    """What is measured."""

    signal: list[str] = field(default_factory=lambda: ["pesq", "stoi", "si_sdr", "mel", "stft"])
    dnsmos: str | None = None  # path or URL of DNSMOS P.835's sig_bak_ovr.onnx
    speaker: str | None = None  # Hugging Face id of an x-vector model, or module:function
    recognizer: str | None = None  # Hugging Face id of a speech recognizer, or module:function
    processes: int | None = None  # that score at the same time; default: one for each core


@dataclass
class EvaluateConfig:
    """All that `speechmill evaluate` can be told."""

    clips: list[str] = MISSING  # shards, or folders or manifests of audio
    output: str = MISSING  # folder for results.json and report.html
    codecs: dict[str, EvaluatedCodec] = MISSING  # by the label under which they are compared
    references: list[str] | None = None  # clean twins of noisy clips, matched by key
    reference_member: str | None = None  # or their suffix within the same sample
    max_clips: int | None = None  # evenly spaced over the keys
    device: str | None = None  # default: cuda where there is one, else cpu
    metrics: MetricConfig = field(default_factory=MetricConfig)
    report_clips: int = 6  # clips to see and hear in the report
    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec

    def test_set(self) -> TestSetSettings:
        return TestSetSettings(self.clips, self.references, self.reference_member, self.max_clips)


Schema = TypeVar("Schema")


def load_config(schema: type[Schema], path: Path, overrides: list[str]) -> Schema:
    """Read a YAML file, apply `key=value` overrides and check all against the schema.

    Raises `InputError` for a file that cannot be read, an unknown key (the nearest valid one is
    named), a value of another type and a value that is missing.
    """
    return _checked(schema, OmegaConf.merge(_read(path), _parse(overrides)), f"in {path} or ")


def from_overrides(schema: type[Schema], overrides: list[str]) -> Schema:
    """Like `load_config`, with nothing but `key=value` on the command line."""
    return _checked(schema, _parse(overrides), "")


def from_yaml(schema: type[Schema], text: str, where: str, overrides: list[str]) -> Schema:
    """Like `load_config`, of text that was read from `where`."""
    return _checked(schema, OmegaConf.merge(_parse_yaml(text, where), _parse(overrides)), "")


def _checked(schema: type[Schema], given: Any, where: str) -> Schema:
    known = OmegaConf.structured(schema)
    _check_keys(given, known)
    try:
        merged = OmegaConf.merge(known, given)
    except OmegaConfBaseException as error:
        raise InputError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(merged, DictConfig)
    if schema is TokenizeConfig and merged.codecs and OmegaConf.is_missing(merged.codec, "name"):
        merged.codec.name = None  # each of them has its own
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise InputError(f"{missing[0]} is not set; write it {where}as {missing[0]}=…")
    loaded = OmegaConf.to_object(merged)
    assert isinstance(loaded, schema)
    return loaded


def to_yaml(config: object) -> str:
    """The resolved configuration, as it can be run again, but for secrets: these are not kept."""
    whole = OmegaConf.structured(config)
    for section in ("storage", "ray.env"):
        if found := OmegaConf.select(whole, section):
            OmegaConf.update(whole, section, _without_secrets(OmegaConf.to_container(found)))
    return OmegaConf.to_yaml(whole)


def _without_secrets(value: Any, name: str = "") -> Any:
    """The same with `***` for every value whose name says that it lets somebody in."""
    if isinstance(value, dict):
        return {key: _without_secrets(part, str(key)) for key, part in value.items()}
    return _HIDDEN if _SECRET.search(name) and value else value


def _read(path: Path) -> DictConfig:
    try:
        return _parse_yaml(path.read_text(), str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _parse_yaml(text: str, where: str) -> DictConfig:
    try:
        loaded = OmegaConf.load(io.StringIO(text))
    except Exception as error:  # whatever a YAML parser raises
        raise InputError(f"{where} is no YAML: {error}") from error
    if not isinstance(loaded, DictConfig):
        raise InputError(f"{where} must hold keys and values")
    return loaded


def _parse(overrides: list[str]) -> DictConfig:
    for override in overrides:
        if "=" not in override:
            raise InputError(f"{override!r} is no override; write key=value")
    return OmegaConf.from_dotlist(overrides)


def _check_keys(given: DictConfig, known: DictConfig, prefix: str = "") -> None:
    """Refuse unknown keys, and a value where a section or a list belongs."""
    valid = [prefix + str(name) for name in known]
    for name in map(str, given):
        key, value = f"{prefix}{name}", given._get_node(name)
        if key not in valid:
            near = get_close_matches(key, valid, n=1, cutoff=0.0)
            raise InputError(f"unknown key {key}; did you mean {near[0]}?")
        # A section that must be set is of no type yet but of one that it refers to.
        kind = OmegaConf.get_type(known, name) or _of_node(known, name, "ref_type")
        if is_dataclass(kind):
            if not isinstance(value, DictConfig):
                raise InputError(f"{key} is a section; set one of its keys, {key}.<key>=…")
            _check_keys(value, OmegaConf.structured(kind), f"{key}.")
        elif is_dataclass(entry := _of_node(known, name, "element_type")):
            if not isinstance(value, DictConfig):
                raise InputError(f"{key} has named sections; set one of them, {key}.<name>.…")
            for label in map(str, value):
                section = OmegaConf.create({label: OmegaConf.structured(entry)})
                _check_keys(OmegaConf.create({label: value._get_node(label)}), section, f"{key}.")
        elif kind is list and not isinstance(value, ListConfig):
            raise InputError(f"{key} is a list; write {key}=[…]")


def _of_node(known: DictConfig, name: str, fact: str) -> Any:
    """What OmegaConf knows of a key: the type of its value, or of the entries of a section."""
    node: Any = known._get_node(name)
    return getattr(node._metadata, fact, None)
