"""What may be written or shown: URLs without their credentials, settings without their secrets.

A secret is known by the place where it stands: in the settings of a store, in a URL, behind the
name of a header. What is known is also replaced wherever else it occurs in a text, such as in the
message of a library.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

HIDDEN = "***"
_SHORTEST = 6  # characters; shorter ones would be found inside other words

# Names of settings whose values are secrets, whatever section they are in.
_TELLING = re.compile(
    r"(?:^|[_\W])(?:\w*key|secrets?|tokens?|pass|passwords?|passwd|passphrase|pwd|pin|pat|sas|jwt|"
    r"credentials?|creds?|auth|authorization|bearer|cookies?|headers?|conn(?:ection)?|dsn|"
    r"signature|sig)(?:$|[_\W])",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# Every other setting of a store is hidden.
_HARMLESS_OPTION = re.compile(
    r"account_name|acl|addressing_style|anon|asynchronous|auto_mkdir|\w*block_size|cache_regions"
    r"|\w*cache_type|check_region|consistency|default_\w+|endpoint|endpoint_url|fixed_upload_size"
    r"|host|listings_expiry_time|max_\w+|mode|port|project|region|region_name|requester_pays"
    r"|retries|retry_mode|signature_version|skip_instance_cache|sock_\w+|tcp_keepalive|total"
    r"|total_max_attempts|trust_env|\w*timeout|use_\w+|user_agent|verify|version_aware"
)
# Every other environment variable is hidden, and reaches the workers of a cluster as an argument.
_HARMLESS_VARIABLE = re.compile(
    r"(?:OMP|MKL|KMP|OPENBLAS|NUMEXPR|NCCL|GLOO|MALLOC|GLIBC|CUDA|CUBLAS|CUDNN|NVIDIA|TORCH|"
    r"PYTORCH|TORCHINDUCTOR|TRITON|RAY|SPEECHMILL|LC|XDG)_\w+|PYTHON[A-Z]+"
    r"|HF_(?:HOME|HUB_CACHE|HUB_OFFLINE|ENDPOINT|XET_\w+)|TRANSFORMERS_(?:CACHE|OFFLINE)"
    r"|AWS_(?:REGION|DEFAULT_REGION|ENDPOINT_URL(?:_S3)?|PROFILE|MAX_ATTEMPTS|RETRY_MODE)"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|PATH|HOME|TMPDIR|LANG|TZ"
)

# In `container@account` and `owner:repo@branch` no login is before the @.
_NAME_BEFORE_AT = frozenset(("abfs", "abfss", "adl", "az", "git", "github", "wasb", "wasbs"))
_URL = re.compile(r"""([A-Za-z0-9+.-]*)://((?:(?!::[A-Za-z0-9+.-]+://)[^\s"'<>\\])*)""")
_DIGEST = re.compile(r"#sha256=[0-9a-fA-F]{64}")
_END_OF_SENTENCE = re.compile(r"[)\],.:;]*$")
_PARAMETER = re.compile(
    r"\b(X-(?:Amz|Goog|OSS)-[\w-]+|AWSAccessKeyId|GoogleAccessId|OSSAccessKeyId|Signature|sig|sas|"
    r"SharedAccess\w+|AccountKey|token|\w+_token|password|passwd|secret|api_?key|Key-Pair-Id|Policy)"
    r"=[^&;\s\"'<>]+",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"""\b((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]*(?:key|token))(["']?\s*[:=]\s*["']?)"""
    r"""[^"'\r\n]+""",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(Bearer|Basic) +[\w.~+/=-]{8,}", re.IGNORECASE)
_FROM_ENVIRONMENT = re.compile(r"(\$\{oc\.env:)([^,{}]+)(?:,[^{}]*)?(\})")

_known: set[str] = set()


def public_url(url: str) -> str:
    """A URL without login, query and fragment; the digest that pins a checkpoint stays.

    Stores whose keys may hold a `?` lose it only if it begins a signature.
    """
    return _URL.sub(_without_credentials, url)


def public_text(text: str) -> str:
    """A text in which every URL is public, and every secret that is known is hidden."""
    if "://" in text:
        text = public_url(text)
    text = _PARAMETER.sub(rf"\1={HIDDEN}", text)
    text = _HEADER.sub(rf"\1\2{HIDDEN}", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    return _known_pattern(len(_known)).sub(HIDDEN, text) if _known else text


def public_values(value: Any) -> Any:
    """The same dicts, lists and values with every text in them public."""
    if isinstance(value, dict):
        return {key: public_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [public_values(each) for each in value]
    return public_text(value) if isinstance(value, str) else value


def public_options(options: Any) -> Any:
    """The settings of a store, with all values hidden that are not known to be harmless."""
    return _masked(options, _is_harmless_option, _hide)


def public_environment(variables: dict[str, str]) -> dict[str, str]:
    """Environment variables, with all values hidden that are not known to be harmless."""
    return dict(_masked(variables, is_harmless_variable, _hide))


def public_settings(value: Any, name: str = "") -> Any:
    """Other settings, with the texts hidden whose name says that they are secret."""
    if isinstance(value, dict):
        return {key: public_settings(each, str(key)) for key, each in value.items()}
    if isinstance(value, list):
        return [public_settings(each, name) for each in value]
    if not isinstance(value, str):
        return value
    return _hide(value) if value and _is_telling(name) else public_text(value)


def is_harmless_variable(name: str) -> bool:
    """Whether everybody on a cluster may see the value of an environment variable."""
    return bool(_HARMLESS_VARIABLE.fullmatch(name)) and not _is_telling(name)


def remember_options(options: Any) -> None:
    """Hide the secrets of a store's settings from now on, wherever this process writes text."""
    _masked(options, _is_harmless_option, _remember)


def remember_environment(variables: dict[str, str]) -> None:
    """Hide the values of environment variables from now on, unless they are harmless."""
    _masked(variables, is_harmless_variable, _remember)


def remember_settings(value: Any, name: str = "") -> None:
    """Hide the texts from now on whose name says that they are secret."""
    for key, each in value.items() if isinstance(value, dict) else ():
        remember_settings(each, str(key))
    for each in value if isinstance(value, list) else ():
        remember_settings(each, name)
    if _is_telling(name):
        _remember(value)


def _without_credentials(match: re.Match[str]) -> str:
    scheme, rest = match[1].lower(), match[2]
    start = re.search(r"[?#]", rest)
    base, query = (rest[: start.start()], rest[start.start() :]) if start else (rest, "")
    host, slash, path = base.partition("/")
    if scheme not in _NAME_BEFORE_AT:
        host = host.rpartition("@")[2]
        if not host.startswith(("[", "$", "arn:")) and re.search(r":(?!\d*$)", host):
            return f"{match[1]}://{HIDDEN}"  # a password with a slash or a question mark
    if "http" in scheme or "dav" in scheme or _PARAMETER.search(query):
        digest = _DIGEST.search(query)
        end = _END_OF_SENTENCE.search(query)
        query = (digest[0] if digest else "") + (end[0] if end else "")
    return f"{match[1]}://{host}{slash}{path}{query}"


def _masked(
    value: Any, is_harmless: Callable[[str], bool], hide: Callable[[Any], str], name: str = ""
) -> Any:
    if isinstance(value, dict):
        if _is_telling(name):  # such as headers and cookies: no name below is known
            is_harmless = _never
        return {key: _masked(each, is_harmless, hide, str(key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_masked(each, is_harmless, hide, name) for each in value]
    if value is None or isinstance(value, bool):
        return value
    if is_harmless(name):
        return public_text(value) if isinstance(value, str) else value
    return hide(value)


def _hide(value: Any) -> str:
    """Hide a value, but not which environment variables it is read from."""
    found = _FROM_ENVIRONMENT.findall(str(value))
    if not found:
        return HIDDEN
    literal = _FROM_ENVIRONMENT.sub("", str(value))
    return (HIDDEN if literal else "") + "".join(map("".join, found))


def _remember(value: Any) -> str:
    if isinstance(value, str) and len(value) >= _SHORTEST:
        _known.add(value)
    return HIDDEN


@cache
def _known_pattern(_: int) -> re.Pattern[str]:
    """Matches the secrets that are known; their number, which only grows, is the cache's key."""
    return re.compile("|".join(map(re.escape, sorted(_known, key=len, reverse=True))))


def _is_harmless_option(name: str) -> bool:
    return bool(_HARMLESS_OPTION.fullmatch(name)) and (
        name == "signature_version" or not _is_telling(name)
    )


def _never(_: str) -> bool:
    return False


def _is_telling(name: str) -> bool:
    return bool(_TELLING.search(_CAMEL.sub("_", name)))
