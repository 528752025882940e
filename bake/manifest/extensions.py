"""`extensions:` of a manifest: git repositories of extensions of the webui, each at one commit."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from bake.secrets import find_credential
from runtime.files.policy import is_loopback_host

FOLDER = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""What an extension's folder may be called."""
NO_REQUIREMENTS = "none"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REF = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock$|/$))[A-Za-z0-9_][A-Za-z0-9._/+@-]{0,199}")
_OWN_WORDS = "own_words"
_BUILT_IN = {
    "canvas-zoom-and-pan", "extra-options-section", "hypertile", "ldsr", "lora", "mobile",
    "postprocessing-for-training", "prompt-bracket-checker", "scunet", "soft-inpainting", "swinir",
}  # fmt: skip
"""`extensions-builtin` of webui v1.9.3, in lower case: of two of one name it leaves out the second, or runs both."""


def _wrong(text: str) -> PydanticCustomError:
    return PydanticCustomError(_OWN_WORDS, "{text}", {"text": text})


def _check_url(url: str) -> str:
    if url.startswith("file:"):
        if not url[len("file:") :].strip():
            raise _wrong("file: needs the path of a git repository, relative to the manifest")
        return url
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise _wrong("is not a valid address") from error
    sealed = parts.scheme == "https" or (parts.scheme == "http" and is_loopback_host(host))
    if not host or not sealed:
        raise _wrong(f"{url[:80]} is no git repository's https address, nor file:path")
    if parts.username is not None or parts.password is not None or find_credential(url):
        raise _wrong(
            "the address holds a credential, which would be in the lock and in the image for all to read;"
            " BAKE_GIT_CREDENTIALS names a file with it"
        )
    if parts.query or parts.fragment or not parts.path.strip("/"):
        raise _wrong(
            f"{url[:80]} is no repository's plain address, such as https://host/owner/name"
        )
    return url


def _check_commit(commit: str) -> str:
    if not _COMMIT.fullmatch(commit):
        raise _wrong(
            f"{commit[:60]!r} is not a commit's 40 hexadecimal digits in lower case;"
            " a tag or a branch is written as `ref`, and the lock notes the commit"
        )
    return commit


def _check_ref(ref: str) -> str:
    if not _REF.fullmatch(ref):
        raise _wrong(f"{ref[:60]!r} is no tag or branch")
    return ref


def _check_name(name: str) -> str:
    if not re.fullmatch(FOLDER, name):
        raise _wrong(
            f"the name {name[:60]} may hold letters, digits, dots, dashes and underscores only"
        )
    if name.lower() in _BUILT_IN:
        raise _wrong(f"the webui has an extension {name} of its own; give it another `name`")
    return name


def _check_title(title: str) -> str:
    if not title.strip() or title != title.strip() or not title.isprintable():
        raise _wrong(f"{title[:60]!r} is no script's title")
    return title


def _check_requirements(text: str) -> str:
    if text != NO_REQUIREMENTS and not re.fullmatch(r"file:\s*\S.*", text):
        raise _wrong(
            f"{text[:60]!r} is neither file:NAME.txt, a lock with hashes, nor {NO_REQUIREMENTS}"
        )
    return text


class Extension(BaseModel):
    """One extension of the webui."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    url: Annotated[str, AfterValidator(_check_url)] = Field(
        description="a git repository's https address, such as https://github.com/owner/name, or file:path"
    )
    commit: Annotated[str, AfterValidator(_check_commit)] | None = Field(
        None, description="a commit's 40 hexadecimal digits"
    )
    ref: Annotated[str, AfterValidator(_check_ref)] | None = Field(
        None, description="a tag or branch in place of the commit; the lock notes the commit"
    )
    name: Annotated[str, AfterValidator(_check_name)] | None = Field(
        None, description="the folder's name (default: the repository's)"
    )
    scripts: tuple[Annotated[str, AfterValidator(_check_title)], ...] = Field(
        (),
        strict=False,
        description="a list of titles of its scripts that a request may give arguments to, such as ControlNet",
    )
    requirements: Annotated[str, AfterValidator(_check_requirements)] | None = Field(
        None,
        description="file:NAME.txt, a lock with hashes of what it needs, or `none`: the base has it all",
    )

    @model_validator(mode="after")
    def _whole(self) -> Extension:
        if (self.commit is None) == (self.ref is None):
            raise _wrong("needs either `commit` or `ref`")
        _check_name(self.folder)
        return self

    @property
    def folder(self) -> str:
        """The name of its folder in the image."""
        last = self.url.rstrip("/").replace(":", "/").rpartition("/")[2]
        return self.name or last.removesuffix(".git")
