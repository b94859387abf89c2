"""URLs with a login or a signature: named without, opened with."""

from dataclasses import dataclass, field

from speechmill.pipeline.redaction import public_url


@dataclass
class SignedUrls:
    """The credentials of the URLs that one process was given.

    A tar is known by its URL without credentials, since those of a presigned URL are others each
    time. So names, rows and logs hold no secret, and only what opens a URL asks for the whole one.
    """

    _signed: dict[str, str] = field(default_factory=dict, repr=False)  # by the public URL
    _logins: dict[str, str] = field(default_factory=dict, repr=False)  # by protocol and host

    def public(self, url: str) -> str:
        """The URL without its credentials, which are remembered."""
        if "://" not in url:
            return url
        shown = public_url(url)
        if shown != url:
            self._signed[shown] = url
            if login := _host(url).rpartition("@")[0]:
                self._logins[_root(shown)] = login
        return shown

    def whole(self, url: str) -> str:
        """The URL as it was given; another one on the host of a login gets that login."""
        if url in self._signed:
            return self._signed[url]
        login = self._logins.get(_root(url)) if "@" not in _host(url) else None
        return url.replace("://", f"://{login}@", 1) if login else url


def _root(url: str) -> str:
    return f"{url.partition('://')[0]}://{_host(url)}"


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]
