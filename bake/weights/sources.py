"""The forms in which a manifest may name weights: what `runtime.files.addresses` knows, `file:`, `builtin:`.

A manifest's source is written into the lock, the image's labels and its bill of materials, so an address
that holds a credential is refused.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from bake.secrets import find_credential
from runtime.files.addresses import CIVITAI, HUGGING_FACE, Provider, Source, parse_address
from runtime.files.errors import WeightsError

CONFIGS = Path(__file__).parent / "configs"
"""What `builtin:` means: configs for checkpoints whose model the webui cannot tell."""
__all__ = ["Provider", "Source", "SourceFormError", "parse_source"]


class SourceFormError(ValueError):
    """A source text is of no known form; the message says which form was expected."""


def parse_source(text: str) -> Source:
    """Parses one source. Raises SourceFormError with the expected form."""
    if text.strip().split(":", 1)[0].lower() == "file":
        return _parse_file(text.strip())
    if text.strip().split(":", 1)[0].lower() == "builtin":
        return _parse_builtin(text.strip())
    credential = find_credential(text)
    if credential is not None:
        raise SourceFormError(_refuse_credential(text, credential))
    try:
        return parse_address(text)
    except WeightsError as error:
        own = " or file:path" if error.kind == "form" else ""
        raise SourceFormError(error.what + own) from error


def _refuse_credential(text: str, name: str) -> str:
    host = urlsplit(text).hostname or ""
    for hosts, variable in ((CIVITAI.hosts, "CIVITAI_TOKEN"), (HUGGING_FACE.hosts, "HF_TOKEN")):
        if host in hosts:
            return f"the URL holds a token; take ?{name}=… out and set {variable} instead"
    return (
        f"the URL is signed or holds a token ({name}=…), which would be in the lock and in the image "
        "for all to read; write the page or public address that it came from, or download the file "
        "and write file:path"
    )


def _parse_builtin(text: str) -> Source:
    path = CONFIGS / f"{text.partition(':')[2]}.yaml"
    if path.parent != CONFIGS or not path.is_file():
        known = ", ".join(sorted(f"builtin:{each.stem}" for each in CONFIGS.glob("*.yaml")))
        raise SourceFormError(f"there is no such built-in config; there is {known}")
    return Source(provider="file", path=str(path))


def is_local(text: str) -> bool:
    """Whether a source is a file of this machine: it is read anew each time, and its owner's business."""
    return text.strip().split(":", 1)[0].lower() in ("file", "builtin")


def _parse_file(text: str) -> Source:
    path = text[len("file:") :]
    if path.startswith("//"):
        path = unquote(path[2:])
        if not path.startswith("/"):
            raise SourceFormError(
                "file:// takes an absolute path (file:///…); a relative one is file:path"
            )
    if not path:
        raise SourceFormError("file: needs a path, relative to the manifest")
    if path.startswith("~"):
        raise SourceFormError(
            "file: knows no ~; write a path from the root, or relative to the manifest"
        )
    return Source(provider="file", path=path)
