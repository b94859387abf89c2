"""Text from strangers made clean where it enters: names, JSON, transcripts, messages.

Everything that is stored is valid UTF-8 without lone surrogates; U+FFFD stands for what is not.
Everything that is shown is on one line and holds no control character.
"""

import codecs
import json
import re
from typing import Any

REPLACEMENT = "\ufffd"
_SURROGATES = re.compile("[\ud800-\udfff]")
# An escape of JSON: a pair of surrogates, any single code unit, or another character.
_JSON_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
# Control characters, line separators, and marks that change the direction of the text.
_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_MARKS = (  # the longer one first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")


def clean(text: str) -> str:
    """The text with U+FFFD for each lone surrogate."""
    return text if text.isascii() else _SURROGATES.sub(REPLACEMENT, text)


def decode_name(data: bytes) -> tuple[str, bool]:
    """The name of a file, and whether bytes that are not UTF-8 were replaced."""
    try:
        return data.decode(), False
    except UnicodeDecodeError:
        return data.decode(errors="replace"), True


def decode_text(data: bytes) -> tuple[str, bool]:
    """A text by its byte order mark, else as UTF-8, and whether anything was replaced."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding), False
    except UnicodeDecodeError:
        return data.decode(encoding, errors="replace"), True


def clean_json(text: str) -> tuple[str, bool]:
    r"""JSON with `\ufffd` for each escaped lone surrogate, and whether there was one."""
    if "\\ud" not in text and "\\uD" not in text:
        return text, False
    cleaned = _JSON_ESCAPE.sub(lambda match: "\\ufffd" if match[1] else match[0], text)
    return cleaned, cleaned != text


def shown(text: object) -> str:
    """The text as a terminal or a log may show it: control characters are escaped."""
    return _UNSHOWN.sub(_escaped, str(text))


def message_of(error: BaseException) -> str:
    """What an error says, never empty and always valid UTF-8."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    return clean(str(error)) or f"{type(error).__name__} without a message"


def escape_bytes(path: str) -> str:
    r"""A local path as valid UTF-8: `\xf1` for a byte that is not."""
    if path.isascii():
        return path
    return _SURROGATES.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", path)


def unescape_bytes(path: str) -> str:
    """The path of which `escape_bytes` made this one."""
    return _BYTE.sub(lambda match: chr(0xDC00 + int(match[1], 16)), path)


def replace_escaped(path: str) -> str:
    """The path with U+FFFD for each byte that `escape_bytes` escaped."""
    return _BYTE.sub(REPLACEMENT, path)


def _escaped(match: "re.Match[str]") -> str:
    return match[0].encode("unicode_escape").decode()


def json_file(value: Any) -> bytes:
    """Facts as a file of JSON that a person can read."""
    return (json.dumps(value, indent=2) + "\n").encode()
