"""What `push`, `verify` and `inspect` are asked about: a bake of this machine, or an image anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bake.console import Console
from bake.errors import BuildError, MachineError, ManifestError
from bake.image.engine.docker import Engine
from bake.image.kept import Kept
from bake.image.layout import LAYOUT_SCHEME, parse_layout, read_from_layout
from bake.image.oci.model import Image
from bake.image.oci.reference import Reference, parse_reference
from bake.image.registry.client import RegistryClient
from bake.image.saved import IMAGE_FILE, load_saved_image
from bake.image.source import read_from_engine, read_from_registry
from bake.manifest.load import load_manifest
from bake.manifest.model import Compression
from bake.plan.state import BuildFolder

Place = Literal["folder", "layout", "engine", "registry"]


@dataclass(frozen=True, kw_only=True)
class BakedImage:
    """An image of a build folder."""

    folder: Path
    image: Image
    reference: str
    """What the manifest calls it; empty where only the folder was named."""
    compression: Compression = "gzip"
    """What the manifest says of it; a folder alone is pushed as it is."""

    @property
    def pushed_digest(self) -> str | None:
        """What a registry knows it by; None where that is not known before a push, which packs layers anew."""
        if self.compression == "gzip":
            return self.image.digest
        record = BuildFolder(self.folder).record("push")
        known = record.result if record else {}
        same = known.get("assembled") == self.image.digest
        return str(known["digest"]) if same and "digest" in known else None


def find_baked(what: str, *, build_dir: Path) -> BakedImage | None:
    """The bake of a manifest, or of a build folder; None for what is neither, such as a reference.

    Raises:
        ManifestError: the manifest is wrong, or nothing is named.
        BuildError: it is not baked yet.
    """
    if not what.strip():  # of a variable that is not set; as a path it would be this folder
        raise ManifestError(
            "no image is named: the text is empty",
            hint="name a manifest, a build folder, an image, or oci:FOLDER",
        )
    path = Path(what)
    if path.is_dir():
        return BakedImage(folder=path, image=load_saved_image(path), reference="")
    if path.suffix not in (".yaml", ".yml"):
        return None
    manifest = load_manifest(path)
    folder = build_dir / manifest.name
    if not (folder / IMAGE_FILE).exists():
        where, hint = str(folder), f"bake image {what}"
        raise BuildError("there is no baked image here", where=where, hint=hint)
    image = load_saved_image(folder)
    from bake.steps.load import reference_of  # noqa: PLC0415  # loads all that a bake needs

    return BakedImage(
        folder=folder,
        image=image,
        reference=reference_of(manifest, image),
        compression=manifest.compression,
    )


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An image that can be read, wherever it is."""

    image: Image
    name: str
    place: Place
    engine: Engine | None = None
    """Where the image is in it."""


@contextmanager
def open_image(
    what: str,
    *,
    build_dir: Path,
    console: Console,
    places: Sequence[Place] = ("engine", "registry"),
    kept: Kept | None = None,
) -> Iterator[Opened]:
    """Opens a bake of this machine, an OCI layout (`oci:FOLDER[:TAG]`), or an image by its reference.

    Args:
        what: A manifest, a build folder, a layout or a reference.
        build_dir: Where the build folders are.
        console: Says where the image is looked for.
        places: Where a reference is looked for, in this order; the last one must have it.
        kept: What was read before of an engine's images.

    Raises:
        BakeError: it is nowhere, or cannot be read.
    """
    baked = find_baked(what, build_dir=build_dir)
    with ExitStack() as stack:
        if baked:
            name = baked.reference or what
            yield Opened(image=baked.image, name=name, place="folder")
            return
        if what.startswith(LAYOUT_SCHEME):
            folder, tag = parse_layout(what)
            yield Opened(image=read_from_layout(folder, tag=tag), name=what, place="layout")
            return
        if places[0] == "engine":
            engine = _enter_engine(stack, console, is_needed="registry" not in places)
            if engine and ("registry" not in places or engine.image_id(what)):
                image = read_from_engine(engine, what, kept=kept)
                yield Opened(image=image, name=what, place="engine", engine=engine)
                return
        reference = parse_reference(what)
        client = stack.enter_context(RegistryClient(reference.host))
        image = read_from_registry(client, reference)
        yield Opened(image=image, name=str(reference), place="registry")


def _enter_engine(stack: ExitStack, console: Console, *, is_needed: bool) -> Engine | None:
    try:
        return stack.enter_context(Engine(console))
    except MachineError as error:
        if is_needed:
            raise
        console.say(f"{error.what}; looking in the registry")
        return None


def pushed_reference(what: str, *, build_dir: Path) -> Reference:
    """Where a registry has what was baked here from a manifest, by its digest; or a reference as it is.

    Raises:
        ManifestError: it is neither, or the manifest is wrong.
        BuildError: the manifest is not baked yet, or not pushed under another digest than the bake's.
    """
    baked = find_baked(what, build_dir=build_dir)
    if baked is None:
        return parse_reference(what)
    if not baked.reference:
        raise ManifestError(
            "a build folder does not say which registry it was pushed to",
            where=what,
            hint=f"name the manifest, or the image: registry/name@{baked.image.digest}",
        )
    if baked.pushed_digest is None:
        raise BuildError(
            "it was not pushed from here yet, and a push packs its layers anew (compression: zstd)",
            where=what,
            hint=f"bake push {what}",
        )
    return parse_reference(baked.reference).at(baked.pushed_digest)


def need_baked(what: str, *, build_dir: Path) -> BakedImage:
    """As `find_baked`.

    Raises:
        ManifestError: it is neither a manifest nor a build folder.
    """
    found = find_baked(what, build_dir=build_dir)
    if found is None:
        raise ManifestError(
            f"{what} is neither a manifest (.yaml) nor a build folder with {IMAGE_FILE}",
            hint="bake push manifests/NAME.yaml, or bake push build/NAME registry/name:tag",
        )
    return found


def image_in_engine(what: str, *, engine: Engine, build_dir: Path) -> str:
    """The id of an image in the engine: of the last bake of a manifest or a build folder, or by its reference.

    Raises:
        ManifestError: it is an OCI layout.
        MachineError: the bake is not in the engine.
        BuildError: it is not baked, or cannot be pulled.
    """
    if what.startswith(LAYOUT_SCHEME):
        raise ManifestError(
            "a layout is in no engine, and only an engine starts a worker",
            where=what,
            hint=f"skopeo copy {what} docker-daemon:NAME:TAG",
        )
    baked = find_baked(what, build_dir=build_dir)
    if baked is None:
        return engine.pull(what)
    for identity in (baked.image.digest, baked.image.config_digest):
        if found := engine.image_id(identity):
            return found
    raise MachineError(
        "the image of the last bake is not in the engine",
        where=what,
        hint="bake image MANIFEST, without --no-load, gives it to the engine",
    )
