"""The files of an extension: what of a commit is taken, what is refused, and the archive that the store keeps."""

from __future__ import annotations

import hashlib
import io
import posixpath
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bake.errors import SourceError
from bake.extensions.git import Entry, Repository
from bake.files import digest_of_list, unpack
from bake.weights.store import hash_file
from runtime.worker import WEIGHTS_MTIME

_MOST_BYTES = 200 << 20
_MOST_FILES = 20_000
_COMMIT = "comment"
_LFS = b"version https://git-lfs.github.com/spec/"
_LINK, _SUBMODULE, _PROGRAM = "120000", "160000", "100755"
_NEEDS: tuple[tuple[str, str], ...] = (
    (r"install\.py|setup\.py", r"\S"),
    (r"requirements(?!.*(?:dev|test|doc|lint)).*\.(?:txt|in)", r"(?m)^\s*[^#\s]"),
    (r"pyproject\.toml", r"(?m)^\s*dependencies\s*=\s*\[\s*[^\]\s]"),
    (r"setup\.cfg", r"(?m)^\s*install_requires\s*=\s*\S"),
)
"""Names of files at the top of a repository by which it says that it needs packages, in any case, and what then is in
them. Of these the webui itself runs `install.py` (modules/launch_utils.py), which reads one of the others where it likes.
"""
_LICENCE_FILE = re.compile(r"(?i)(licen[cs]e|copying)(\.(md|txt|rst))?")
_LICENCES = (
    (r"GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3", "AGPL-3.0"),
    (r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 3", "LGPL-3.0"),
    (r"GNU GENERAL PUBLIC LICENSE\s+Version 3", "GPL-3.0"),
    (r"GNU GENERAL PUBLIC LICENSE\s+Version 2", "GPL-2.0"),
    (r"Apache License\s+Version 2\.0", "Apache-2.0"),
    (r"Mozilla Public License Version 2\.0", "MPL-2.0"),
    (r"Permission is hereby granted, free of charge, to any person obtaining a copy", "MIT"),
    (r"Redistribution and use in source and binary forms", "BSD"),
    (r"Creative Commons Attribution-NonCommercial", "CC-BY-NC"),
    (r"This is free and unencumbered software", "Unlicense"),
)
"""The title of a licence's text, by which a reader tells it too."""


@dataclass(frozen=True, kw_only=True)
class TreeFile:
    """One file, as it will lie in the image."""

    path: str
    """From the extension's folder on."""
    content: bytes
    """A link's target for a link."""
    is_program: bool = False
    is_link: bool = False


@dataclass(frozen=True, kw_only=True)
class Tree:
    """All files of an extension."""

    commit: str
    """40 hex digits."""
    files: Sequence[TreeFile]

    @property
    def files_sha256(self) -> str:
        """Of the list of the regular files."""
        regular = [each for each in self.files if not each.is_link]
        return digest_of_list(
            (each.path, hashlib.sha256(each.content).hexdigest(), each.is_program)
            for each in regular
        )

    @property
    def licence(self) -> str | None:
        """By the title of the text of its licence; None where there is none that is known."""
        texts = [each.content for each in self.files if _LICENCE_FILE.fullmatch(each.path)]
        for text in texts:
            words = text[:8000].decode("utf-8", "replace")
            for pattern, name in _LICENCES:
                if re.search(pattern, words):
                    return name
        return None

    @property
    def needs(self) -> list[str]:
        """Files by which it says that it needs packages, or would install them."""
        return [
            file.path
            for name, content in _NEEDS
            for file in self.files
            if re.fullmatch(name, file.path, re.IGNORECASE)
            and re.search(content, file.content.decode("utf-8", "replace"))
        ]


def read_tree(repository: Repository, commit: str, *, where: str) -> Tree:
    """Takes a commit's files.

    Raises:
        SourceError: the repository does not give it, or it has what no image of ours can have.
    """
    entries = [each for each in repository.fetch(commit) if not _is_compiled(each.path)]
    _check(entries, where)
    files = [
        TreeFile(
            path=entry.path,
            content=content,
            is_program=entry.mode == _PROGRAM,
            is_link=entry.mode == _LINK,
        )
        for entry, content in zip(entries, repository.read(entries), strict=True)
    ]
    _check_contents(files, where)
    return Tree(commit=commit, files=files)


def write_archive(tree: Tree, path: Path) -> str:
    """Writes the archive: the same commit gives the same bytes. Returns its SHA-256.

    It names the commit where `git archive` does, so that a digest stands for the commit and not for its files alone.
    """
    headers = {_COMMIT: tree.commit}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        for file in sorted(tree.files, key=lambda each: each.path):
            entry = tarfile.TarInfo(file.path)
            entry.mtime, entry.mode = WEIGHTS_MTIME, 0o755 if file.is_program else 0o644
            if file.is_link:
                entry.type, entry.linkname = tarfile.SYMTYPE, file.content.decode()
                tar.addfile(entry)
            else:
                entry.size = len(file.content)
                tar.addfile(entry, io.BytesIO(file.content))
    return hash_file(path)


def read_archive(path: Path) -> Tree:
    """The inverse of `write_archive`; the commit is empty where the archive names none.

    Raises:
        tarfile.TarError: it is no archive.
    """
    files = []
    with tarfile.open(path, "r:") as tar:
        for entry in tar:
            opened = tar.extractfile(entry) if entry.isreg() else None
            files.append(
                TreeFile(
                    path=entry.name,
                    content=opened.read() if opened else entry.linkname.encode(),
                    is_program=entry.isreg() and bool(entry.mode & 0o100),
                    is_link=entry.issym(),
                )
            )
        return Tree(commit=tar.pax_headers.get(_COMMIT, ""), files=files)


def unpack_archive(archive: Path, folder: Path) -> None:
    """Unpacks what `write_archive` wrote into a new folder."""
    folder.mkdir(parents=True)
    unpack(archive, folder)


def _is_compiled(path: str) -> bool:
    """Bytecode that was committed: Python would run it in place of the source beside it."""
    return path.endswith(".pyc") or "__pycache__" in path.split("/")


def _check(entries: Sequence[Entry], where: str) -> None:
    modules = [each.path for each in entries if each.mode == _SUBMODULE]
    if modules:
        raise SourceError(
            f"it has submodules ({_few(modules)}), which are not fetched",
            where=where,
            hint="take a repository that has these files in it, or one of your own: file:path",
        )
    odd = [each.path for each in entries if not _is_plain(each.path)]
    if odd:
        raise SourceError(f"it has files of names that no image can have: {_few(odd)}", where=where)
    size_bytes = sum(each.size_bytes for each in entries)
    if size_bytes > _MOST_BYTES or len(entries) > _MOST_FILES:
        raise SourceError(
            f"it has {len(entries)} files of {size_bytes >> 20} MiB;"
            f" at most {_MOST_FILES} of {_MOST_BYTES >> 20} MiB are taken",
            where=where,
            hint="models belong into `extension_models`",
        )
    if not entries:
        raise SourceError("the commit has no files", where=where)


def _is_plain(path: str) -> bool:
    parts = path.split("/")
    is_usual = path.isprintable() and "\\" not in path and len(path) < 4096
    return is_usual and not any(
        part in ("", ".", "..") or part.lower() == ".git" or part.startswith(".wh.")
        for part in parts
    )


def _check_contents(files: Sequence[TreeFile], where: str) -> None:
    pointers = [each.path for each in files if each.content.startswith(_LFS)]
    if pointers:
        raise SourceError(
            f"Git LFS has the contents of {_few(pointers)}; the repository itself only points at them",
            where=where,
            hint="bake those files as `extension_models`, from a commit without the pointers",
        )
    for file in files:
        if file.is_link and not _stays_inside(file):
            raise SourceError(f"{file.path} is a link out of the extension's folder", where=where)


def _stays_inside(file: TreeFile) -> bool:
    target = file.content.decode("utf-8", "surrogateescape")
    if not target.isprintable() or target.startswith("/"):
        return False  # what is not UTF-8 is not printable, either
    named = re.sub(r"^(?:\.\.?(?:/+|$))*", "", target)
    if ".." in named.split("/"):
        return False  # after a name, which may be a link itself, this may be any folder
    ends = posixpath.normpath(posixpath.join(str(PurePosixPath(file.path).parent), target))
    return ends != ".." and not ends.startswith("../")


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(name.encode("unicode_escape").decode()[:80] for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
