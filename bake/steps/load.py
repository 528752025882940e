"""The step `load`: the engine has the image, under the manifest's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bake.image.engine.load import load_image
from bake.image.oci.model import Image
from bake.image.prune import NAMED, named_by_content
from bake.manifest.model import Manifest
from bake.plan.state import BuildFolder, Document
from bake.plan.step import Earlier, Situation, StepKind
from bake.steps.run import Run

if TYPE_CHECKING:
    from bake.image.engine.docker import Engine


def _document(situation: Situation, earlier: Earlier) -> Document | None:
    return {"image": earlier["assemble"].key} if situation.options.load else None


def _exists(_folder: BuildFolder, engine: Engine, result: Mapping[str, Any]) -> bool:
    return engine.image_id(str(result["reference"])) == str(result["id"])


LOAD = StepKind(name="load", document=_document, exists=_exists)


def reference_of(manifest: Manifest, image: Image) -> str:
    """`repository:tag`; without a tag in the manifest, one that names the content."""
    repository = manifest.image
    if ":" in repository.rsplit("/", 1)[-1]:
        return repository
    return f"{repository}:{image.digest[7:19]}"


def load_into_engine(run: Run, image: Image) -> str:
    """Gives the engine the layers that it lacks, unless it is not to have them. Returns the reference."""
    reference = reference_of(run.context.manifest, image)
    if not run.context.options.load:
        return reference

    earlier = named_by_content(run.context.folder)  # the step forgets its record before it runs

    def give() -> Mapping[str, Any]:
        loaded = load_image(image, run.engine, reference)
        is_named = reference.endswith(f":{image.digest[7:19]}")
        named = {**earlier, **({reference: loaded} if is_named else {})}
        return {"id": loaded, "reference": reference, NAMED: named}

    return str(run.step("load", give)["reference"])
