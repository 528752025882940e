"""What `push`, `verify` and `inspect` are asked about: a bake of this machine, or an image anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bake.errors import ManifestError
from bake.image.oci.model import Image
from bake.image.oci.saved import IMAGE_FILE, load_saved_image
from bake.manifest.load import load_manifest


@dataclass(frozen=True, kw_only=True)
class BakedImage:
    """An image of a build folder."""

    folder: Path
    image: Image
    reference: str
    """What the manifest calls it; empty where only the folder was named."""


def find_baked(what: str, *, build_dir: Path) -> BakedImage | None:
    """The bake of a manifest, or of a build folder; None for what is neither, such as a reference.

    Raises:
        ManifestError: the manifest is wrong.
        BuildError: it is not baked yet.
    """
    path = Path(what)
    if path.is_dir():
        return BakedImage(folder=path, image=load_saved_image(path), reference="")
    if path.suffix not in (".yaml", ".yml"):
        return None
    manifest = load_manifest(path)
    folder = build_dir / manifest.name
    image = load_saved_image(folder)
    from bake.steps.load import reference_of  # noqa: PLC0415  # loads all that a bake needs

    return BakedImage(folder=folder, image=image, reference=reference_of(manifest, image))


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
