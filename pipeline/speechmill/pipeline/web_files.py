"""Files of a plain web server, as fsspec's filesystem of http shows them, with what it leaves out.

fsspec takes an error of a listing for an empty folder, and a length that is not told for no length.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.redaction import public_text, public_url

_PARALLEL_REQUESTS = 16
_DEEPEST = 20  # folders in folders
_TIMEOUT = 300.0  # s of one request


def is_web(fs: Any) -> bool:
    """Whether a filesystem is that of a web server."""
    return "http" in fs.protocol


def find(fs: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Every file below a folder whose page links to it, by URL, with its size.

    Raises `InputError` for a folder that has no such page.
    """
    try:
        names = sorted(set(_links(fs, folder, _DEEPEST)))
    except Exception as error:
        if getattr(error, "status", 0) not in (401, 403, 404, 405) and not isinstance(
            error, FileNotFoundError
        ):
            raise
        raise InputError(
            f"{public_url(folder)}: the web server shows no listing of it "
            f"({public_text(str(error))}); name each file by its URL, or in a .txt list"
        ) from error
    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as threads:
        return dict(zip(names, threads.map(lambda name: details(fs, name), names), strict=True))


def _links(fs: Any, folder: str, depth: int) -> Iterator[str]:
    for entry in fs.ls(folder, detail=True):
        name = entry["name"]
        if "?" in name.removeprefix(folder) or "#" in name:  # sorts the page, or leads within it
            continue
        if entry["type"] != "directory":
            yield name
        elif depth and not name.endswith("/./"):
            yield from _links(fs, name, depth - 1)


def details(fs: Any, url: str) -> dict[str, Any]:
    """What `fs.info` says of a file, with its size.

    Raises `InputError` if the server says it neither to a HEAD nor to a GET of a range.
    """
    found: dict[str, Any] = fs.info(url)
    if found["size"] is not None:
        return found
    length = asyncio.run_coroutine_threadsafe(_length(fs, url), fs.loop).result(_TIMEOUT)
    if length is None:
        raise InputError(
            f"{public_url(url)}: the web server does not say its size (no Content-Length, no "
            "ranges); copy it to a disk or a store and name the copy"
        )
    return found | {"size": length}


async def _length(fs: Any, url: str) -> int | None:
    """The length that the answer to a GET of one byte tells."""
    arguments = dict(fs.kwargs)
    headers = arguments.pop("headers", {}) | {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), headers=headers, **arguments) as answer:
        answer.raise_for_status()
        length = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return int(length) if length.isdecimal() else None
