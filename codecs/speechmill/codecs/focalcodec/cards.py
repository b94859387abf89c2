"""What is known of the released FocalCodecs.

Revisions and digests of the offline files are those that a third-party port pins; of the causal
ones none were at hand.
"""

from speechmill.codecs.family import Card

_OFFLINE, _CAUSAL = "arXiv 2502.04465", "arXiv 2509.16195"
_LICENCE = "Apache-2.0"
_HUB = "hf://lucadellalib/focalcodec_"

CARDS = {
    "focalcodec-50hz": Card(
        parameters=142_126_257,
        paper=_OFFLINE,
        licence=_LICENCE,
        files={
            "checkpoint": f"{_HUB}50hz@d6d6d9524e52155c85193c2c3b8da1cf8842f019/model.safetensors"
            "#sha256=2700a916ca8d1c11a899995ef8d451ee53a481486650c4b78cd96feff9ac77f0"
        },
    ),
    "focalcodec-25hz": Card(
        parameters=144_223_409,
        paper=_OFFLINE,
        licence=_LICENCE,
        files={
            "checkpoint": f"{_HUB}25hz@581aa401901b4985fbbdd3569d80a5a191740c1f/model.safetensors"
            "#sha256=07a5ca4b92fb1fdc0499e761df6373d5b0811b8b950335fc40bcf6dc4f300441"
        },
    ),
    "focalcodec-12_5hz": Card(
        parameters=145_271_985,
        paper=_OFFLINE,
        licence=_LICENCE,
        files={
            "checkpoint": f"{_HUB}12_5hz@96ddced5e284f109d9022a65d1062fcd92dc33eb/model.safetensors"
            "#sha256=5362c33ed75801d9bced7e8573f8eece674592ea3c3156451a85f4b924b1c1e5"
        },
    ),
    "focalcodec-50hz-2k-causal": Card(
        parameters=249_036_441,
        paper=_CAUSAL,
        licence=_LICENCE,
        files={"checkpoint": f"{_HUB}50hz_2k_causal/model.safetensors"},
    ),
    "focalcodec-50hz-4k-causal": Card(
        parameters=249_038_490,
        paper=_CAUSAL,
        licence=_LICENCE,
        files={"checkpoint": f"{_HUB}50hz_4k_causal/model.safetensors"},
    ),
    "focalcodec-50hz-65k-causal": Card(
        parameters=249_046_686,
        paper=_CAUSAL,
        licence=_LICENCE,
        files={"checkpoint": f"{_HUB}50hz_65k_causal/model.safetensors"},
    ),
}
