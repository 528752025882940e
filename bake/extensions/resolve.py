"""From a manifest's extensions to their pins, and from pins to what the store keeps of them."""

from __future__ import annotations

import dataclasses
import hashlib
import tarfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

from bake.errors import SourceError
from bake.extensions.git import Repository, open_repository
from bake.extensions.requirements import parse_requirements
from bake.extensions.tree import Tree, read_archive, read_tree, write_archive
from bake.lock import ExtensionPin, Lock
from bake.manifest.extensions import NO_REQUIREMENTS, Extension
from bake.weights.context import Context, today
from bake.weights.sites import local
from bake.weights.sources import Source
from runtime.files.errors import disk_errors


def pin_extensions(
    extensions: Sequence[Extension], *, previous: Sequence[ExtensionPin], context: Context
) -> tuple[ExtensionPin, ...]:
    """Asks each repository for its commit, unless the pin that there is says the same as the manifest.

    Raises:
        SourceError: a repository does not give the commit, or the commit has what no image can have.
    """
    kept = {pin.name: pin for pin in previous}
    return tuple(_pin(each, kept.get(each.folder), context) for each in extensions)


def fetch_extension(pin: ExtensionPin, context: Context) -> None:
    """Brings what the store lacks of an extension.

    Raises:
        SourceError: it does not come, or is not what was pinned.
    """
    if not context.store.has(pin.sha256):
        with context.console.step(f"fetch {pin.key}", f"{pin.url} at {pin.commit[:12]}"):
            tree = _read(pin.url, pin.commit, context, pin.key)
            found = _store(tree, context, pin.key)
            if found != pin.sha256:
                raise _edited(f"its files have SHA256 {found}, the lock says {pin.sha256}", pin.key)
    if pin.requirements_sha256 is not None:
        _take_requirements(pin.requirements or "", context, pin.key, pin.requirements_sha256)


def newest_commit(pin: ExtensionPin, context: Context) -> str:
    """What the pin's tag or branch stands for now; of a pin by commit, what the repository's page shows.

    Raises:
        SourceError: the repository does not answer, or has no such tag or branch any more.
    """
    with _open(pin.url, context, pin.key) as repository:
        return repository.head() if pin.ref is None else repository.resolve(pin.ref)


def check_extensions(lock: Lock, context: Context) -> None:
    """Holds a lock's extensions, and the places of models in their folders, against the files that the store has.

    Raises:
        SourceError: the lock names another commit or other files than its digest stands for; a commit has a file at
            a model's place, or a file or link where a folder would have to be.
    """
    for extension in lock.extensions:
        if wrong := _differences(extension, context):
            raise _edited(wrong, extension.key)
    folders = {each.name: each for each in lock.extensions}
    for pin in lock.pins:
        parts = pin.place.parts
        if pin.role != "extension_model" or parts[0] != "extensions" or parts[1] not in folders:
            continue
        extension, path = folders[parts[1]], PurePosixPath(*parts[2:])
        for file in read_archive(context.store.path_of(extension.sha256)).files:
            committed = PurePosixPath(file.path)
            if path.is_relative_to(committed) or committed.is_relative_to(path):
                raise SourceError(
                    f"{extension.name} itself has {file.path} at that place, in commit {extension.commit[:12]}",
                    where=pin.key,
                    hint="take the model out of extension_models, or give it another path",
                )


def _differences(pin: ExtensionPin, context: Context) -> str:
    """What the lock says otherwise than the archive that it names by its digest; empty if nothing."""
    try:
        tree = read_archive(context.store.path_of(pin.sha256))
    except (tarfile.TarError, ValueError):
        return "the file of its SHA256 is no extension's"
    found = (
        ("commit", pin.commit, tree.commit),
        ("files_sha256", pin.files_sha256, tree.files_sha256),
        ("size_bytes", pin.size_bytes, context.store.size_of(pin.sha256)),
    )
    return "; ".join(
        f"the lock's {name} is {ours or 'none'}, the files of its SHA256 are of {theirs or 'none'}"
        for name, ours, theirs in found
        if ours != theirs
    )


def _is_there(pin: ExtensionPin, context: Context) -> bool:
    return context.store.has(pin.sha256) and not _differences(pin, context)


def _edited(what: str, key: str) -> SourceError:
    hint = "bake lock MANIFEST; a commit's files do not change, but the lock was edited, or is an earlier bake's"
    return SourceError(what, where=key, hint=hint)


def _pin(each: Extension, previous: ExtensionPin | None, context: Context) -> ExtensionPin:
    key, console = f"extensions.{each.folder}", context.console
    if previous is not None and (
        (previous.url, previous.ref) != (each.url, each.ref)
        or each.commit not in (None, previous.commit)
    ):
        previous = None
    is_same = previous is not None and previous.requirements == each.requirements
    if previous is not None and is_same and _is_there(previous, context):
        console.skip(f"pin {key}", "it is in the lock already")
        sha256 = _requirements(each, None, context, key)
        return dataclasses.replace(previous, requirements_sha256=sha256)
    with console.step(f"pin {key}", f"{each.url} {each.ref or each.commit}"):
        commit = each.commit or (previous.commit if previous else None)
        if commit is None:
            with _open(each.url, context, key) as repository:
                commit = repository.resolve(each.ref or "HEAD")
        tree = _read(each.url, commit, context, key)
        if each.commit is None and previous and previous.files_sha256 != tree.files_sha256:
            raise SourceError(
                f"commit {commit} has other files than the lock says: the lock was edited",
                where=key,
                hint=f"delete {each.folder} from the lock; bake lock MANIFEST then takes what {each.ref} is now",
            )
        requirements_sha256 = _requirements(each, tree, context, key)
        sha256 = _store(tree, context, key)
    pin = ExtensionPin(
        name=each.folder,
        url=each.url,
        ref=each.ref,
        commit=commit,
        sha256=sha256,
        size_bytes=context.store.size_of(sha256),
        files_sha256=tree.files_sha256,
        licence=tree.licence,
        requirements=each.requirements,
        requirements_sha256=requirements_sha256,
        resolved_on=today(),
    )
    if previous is not None:
        same_day = dataclasses.replace(pin, resolved_on=previous.resolved_on)
        return previous if same_day == previous else pin
    return pin


def _open(url: str, context: Context, key: str) -> AbstractContextManager[Repository]:
    return open_repository(url, folder=context.folder, settings=context.settings, key=key)


def _read(url: str, commit: str, context: Context, key: str) -> Tree:
    with _open(url, context, key) as repository:
        return read_tree(repository, commit, where=key)


def _store(tree: Tree, context: Context, key: str) -> str:
    store = context.store
    size_bytes = sum(len(each.content) for each in tree.files)
    store.check_space(2 * size_bytes, what=key)
    part = store.partial_path(hashlib.sha256(f"{key} {tree.files_sha256}".encode()).hexdigest())
    with store.lock(part.stem, console=context.console, label=key), disk_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            sha256 = write_archive(tree, part)
            if not store.has(sha256):
                store.admit(part, sha256)
        finally:
            part.unlink(missing_ok=True)
    return sha256


def _requirements(each: Extension, tree: Tree | None, context: Context, key: str) -> str | None:
    """The digest of the lock of what it needs, which the store then has; None where it needs nothing.

    Raises:
        SourceError: it needs packages and the manifest gives no lock of them, or that is none.
    """
    if each.requirements is None:
        needs = tree.needs if tree else []
        if needs:
            raise SourceError(
                f"it has {' and '.join(needs)}: it needs packages, and a worker installs nothing when it starts",
                where=key,
                hint="`requirements: file:NAME.txt` names a lock of them with hashes;"
                f" `requirements: {NO_REQUIREMENTS}` says that the base has all it needs",
            )
        return None
    if each.requirements == NO_REQUIREMENTS:
        return None
    return _take_requirements(each.requirements, context, key, None)


def _take_requirements(text: str, context: Context, key: str, expected: str | None) -> str:
    where = f"{key}.requirements"
    source = Source(provider="file", path=text.partition(":")[2].strip())
    sha256 = local.take_file(context, source, where=where, expected=expected)
    parse_requirements(read_text(context.store.path_of(sha256), where), where=where)
    return sha256


def read_text(path: Path, where: str) -> str:
    """A text file of the store. Raises SourceError where it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SourceError("the file is not UTF-8 text", where=where) from error
