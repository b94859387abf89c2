"""Files that are not what their name says, by their first bytes."""

_MAGIC = (
    (b"\x1f\x8b", "gzip: unpack it with gunzip"),
    (b"BZh", "bzip2: unpack it with bunzip2"),
    (b"\xfd7zXZ\0", "xz: unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd: unpack it with unzstd"),
    (b"PK\x03\x04", "a zip archive: pack its files with `speechmill pack`"),
    (b"PAR1", "a Parquet file"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file with `git lfs pull`"),
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<head")


def describe_mislabelled(head: bytes) -> str | None:
    """What a file of these first bytes is, and the cure; None if its kind is not known here."""
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    if head[:100].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "an HTML or XML page: a server answered with it in place of the file"
    return None
