"""Image references: `[host[:port]/]repository[:tag][@sha256:…]`, with Docker Hub's short forms."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from bake.errors import ManifestError
from bake.image.oci.model import check_digest

DOCKER_HUB = "docker.io"
HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HUB_API = "registry-1.docker.io"
# The grammar of github.com/distribution/reference.
_PATH = re.compile(
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An image of a registry, by tag or by digest."""

    host: str
    """As a docker config names it: `docker.io`, `ghcr.io`, `127.0.0.1:5005`."""
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def api_host(self) -> str:
        """The host that answers the registry API."""
        return _HUB_API if self.host == DOCKER_HUB else self.host

    @property
    def version(self) -> str:
        """What a manifest is asked for by: the digest where there is one."""
        return self.digest or self.tag

    def at(self, version: str) -> Reference:
        """The same repository at another digest or tag."""
        if version.startswith("sha256:"):
            return replace(self, tag="", digest=check_digest(version))
        return replace(self, tag=version, digest="")


def parse_reference(text: str) -> Reference:
    """Parses a reference; without a tag or digest it is `latest`.

    Raises:
        ManifestError: it is not of the form of a reference.
    """
    name, _, digest = text.partition("@")
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = DOCKER_HUB, name
    path, colon, tag = rest.partition(":")
    if first in ("index.docker.io", _HUB_API):
        first = DOCKER_HUB
    if first == DOCKER_HUB and path and "/" not in path:
        path = f"library/{path}"
    is_sound = (
        _HOST.fullmatch(first)
        and _PATH.fullmatch(path)
        and (not colon or _TAG.fullmatch(tag))
        and ("@" not in text or re.fullmatch(r"sha256:[0-9a-f]{64}", digest))
    )
    if not is_sound:
        raise ManifestError(
            f"{text!r} is not an image reference",
            hint="write it as registry.example.com/name:tag, in lower case",
        )
    return Reference(
        host=first, repository=path, tag=tag or ("" if digest else "latest"), digest=digest
    )
