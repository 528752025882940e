"""What is installed in an image: Debian's and Python's packages, by their own records.

Debian keeps `/var/lib/dpkg/status`, Python a `*.dist-info/METADATA` for each package.
"""

from __future__ import annotations

import email.parser
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import requests
from docker.errors import APIError, NotFound
from docker.models.containers import Container

from bake.errors import BuildError
from bake.image.engine.docker import Engine
from bake.image.kept import Kept
from bake.image.oci.layers import TreeLayer
from bake.image.oci.model import FileContent
from bake.image.oci.streams import open_tar, unpacked
from bake.plan.code import version_of

DPKG_STATUS = PurePosixPath("/var/lib/dpkg/status")
_METADATA = re.compile(r"\.(?:dist|egg)-info/(?:METADATA|PKG-INFO)$")
_LARGEST_BYTES = 8 << 20
_TIMEOUT_S = 300
_SCRIPT = """
import importlib.metadata, json
print(json.dumps([str(each.read_text("METADATA") or each.read_text("PKG-INFO") or "").partition("\\n\\n")[0]
                  for each in importlib.metadata.distributions()]))
"""


@dataclass(frozen=True, kw_only=True, order=True)
class Package:
    """One installed package."""

    kind: str
    """`deb` or `pypi`."""
    name: str
    version: str
    licence: str = ""
    """As the package says it, shortened to a line; empty where it says nothing."""


def packages_of_layer(layer: TreeLayer, *, kept: Kept | None = None) -> tuple[Package, ...]:
    """The packages whose records lie in a layer on disk."""

    def read() -> Iterator[Package]:
        return _from_tar(FileContent(path=layer.blob).chunks(), below=PurePosixPath("/"))

    return _once(read, digest=layer.digest, of="", kept=kept)


def packages_of_base(
    engine: Engine, image: str, *, python: str, run: str, kept: Kept | None = None
) -> tuple[Package, ...]:
    """The packages of an image in the engine: Debian's, and those that an interpreter of it sees.

    Args:
        engine: Has the image.
        image: Its id or name.
        python: The webui's interpreter in the image. It is asked, without network, since copying its
            gigabytes out of the image to find a few kilobytes of records would take minutes.
        run: Marks the containers.
        kept: What was found before, by the image's id.

    Raises:
        BuildError: the interpreter does not answer.
    """

    def ask() -> list[Package]:
        return _ask(engine, image, python=python, run=run)

    return _once(ask, digest=engine.image_id(image), of=python, kept=kept)


def _once(
    find: Callable[[], Iterable[Package]], *, digest: str | None, of: str, kept: Kept | None
) -> tuple[Package, ...]:
    """What was found before in the bytes of a digest, else what is found now, which is kept."""
    if kept is None or digest is None:
        return _sorted(find())
    version = f"{version_of(__name__)} {of}"
    known = kept.read("packages", digest, version, lambda data: [Package(**each) for each in data])
    if known is not None:
        return _sorted(known)
    found = _sorted(find())
    kept.write("packages", digest, version, [asdict(each) for each in found])
    return found


def site_packages_of(engine: Engine, image: str, *, python: str, run: str) -> PurePosixPath:
    """The folder of an interpreter's own packages in an image.

    Raises:
        BuildError: the interpreter does not answer.
    """
    script = "import json, sysconfig; print(json.dumps(sysconfig.get_path('purelib')))"
    with engine.container(
        image, run=run, entrypoint=[python], command=["-I", "-c", script], network_mode="none"
    ) as container:
        return PurePosixPath(_answer(container, python=python, image=image))


def _ask(engine: Engine, image: str, *, python: str, run: str) -> list[Package]:
    with engine.container(
        image, run=run, entrypoint=[python], command=["-I", "-c", _SCRIPT], network_mode="none"
    ) as container:
        records = _answer(container, python=python, image=image)
        found = [package for text in records if (package := parse_metadata(text)) is not None]
        try:
            stream, _ = container.get_archive(str(DPKG_STATUS))
            found += _from_tar(stream, below=DPKG_STATUS.parent)
        except NotFound:
            pass  # not a Debian
    return found


def _answer(container: Container, *, python: str, image: str) -> Any:
    """The JSON that a container's interpreter prints."""
    try:
        container.start()
        status = container.wait(timeout=_TIMEOUT_S)["StatusCode"]
        shown = container.logs(stdout=True, stderr=False)
        answer = json.loads(shown) if status == 0 else None
    except (APIError, requests.RequestException, ValueError):
        answer = None
    if answer is None:
        raise BuildError(f"{python} does not say what it has", where=image)
    return answer


def parse_dpkg_status(text: str) -> Iterator[Package]:
    """The installed packages of a dpkg status file."""
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed") and "Version" in fields:
            yield Package(kind="deb", name=fields["Package"], version=fields["Version"])


def parse_metadata(text: str) -> Package | None:
    """The package of a METADATA file; None where it has no name."""
    headers = email.parser.HeaderParser().parsestr(text)
    name, version = headers.get("Name", "").strip(), headers.get("Version", "").strip()
    if not name or not version:
        return None
    licence = headers.get("License-Expression") or headers.get("License") or ""
    first_line = licence.strip().splitlines()[0][:80] if licence.strip() else ""
    if not first_line or first_line == "UNKNOWN":
        classifiers = headers.get_all("Classifier") or []
        named = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
        first_line = ", ".join(named)[:80]
    name = re.sub(r"[-_.]+", "-", name).lower()
    return Package(kind="pypi", name=name, version=version, licence=first_line)


def _from_tar(chunks: Iterable[bytes], *, below: PurePosixPath) -> Iterator[Package]:
    with open_tar(unpacked(chunks)) as tar:
        for member in tar:
            path = below / member.name.lstrip("/")
            is_status = path == DPKG_STATUS
            if not member.isreg() or member.size > _LARGEST_BYTES:
                continue
            if is_status or _METADATA.search(str(path)):
                text = _text(tar, member)
                if is_status:
                    yield from parse_dpkg_status(text)
                elif (package := parse_metadata(text)) is not None:
                    yield package


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    opened = tar.extractfile(member) or io.BytesIO()
    return opened.read().decode("utf-8", errors="replace")


def _sorted(found: Iterable[Package]) -> tuple[Package, ...]:
    return tuple(sorted(set(found)))
