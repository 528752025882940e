"""The step `push`: the registry has the image under the manifest's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bake.console import format_bytes
from bake.image.oci.model import Image, Layer
from bake.image.oci.reference import parse_reference
from bake.image.registry.credentials import find_credentials
from bake.image.registry.push import push_image
from bake.image.rewrite import needs_rewriting, push_rewritten
from bake.plan.state import Document
from bake.plan.step import (
    Earlier,
    Situation,
    Step,
    StepKind,
    StepName,
    new_pins,
    packing_of,
    pinned_weights,
    total_bytes,
)
from bake.settings import is_sealed
from bake.steps.load import reference_of
from bake.steps.run import Context, Run
from bake.weights.licences import licence_warnings


def _document(situation: Situation, earlier: Earlier) -> Document | None:
    if not situation.options.push:
        return None
    return {
        "image": earlier["assemble"].key,
        **pinned_weights(situation.lock),
        "repository": situation.manifest.image,
        **packing_of(situation.manifest),
    }


def _decide(name: StepName, document: Document, situation: Situation, earlier: Earlier) -> Step:
    """Always runs: it is cheap where nothing is missing, and only the registry knows whether anything is."""
    is_assembled = not earlier["assemble"].runs
    new = [pin for pin in new_pins(document, situation) if pin.key not in situation.streamed]
    named = f"; weights that it had not at the last push: {', '.join(pin.key for pin in new)}"
    record = situation.record("push")
    is_first = record is None or record.document.get("repository") != document["repository"]
    pushed = [] if record is None or is_first else record.result.get("layers", [])
    others = _absent(situation, pushed)
    why = "the registry is asked what it lacks" + (named if new else "")
    if not is_assembled:
        why += f"; not counted: {'the base and ' if is_first else ''}what is made anew"
    elif situation.manifest.compression == "zstd":
        why += _describe_packing([layer for layer in others if needs_rewriting(layer)])
    weights = total_bytes(new)
    others_bytes = sum(layer.size_bytes for layer in others)
    return Step(
        name=name,
        document=document,
        runs=True,
        why=why,
        size_bytes=None if weights is None else weights + (others_bytes if is_assembled else 0),
    )


def _absent(situation: Situation, pushed: Sequence[Mapping[str, Any]]) -> list[Layer]:
    """What the last push left nothing of, weights aside; what it packed anew is there as another blob."""
    as_it_is = {layer["digest"] for layer in pushed}
    anew = {layer.get("rewritten_from") for layer in pushed}
    packs = situation.manifest.compression == "zstd"
    return [
        layer
        for layer in situation.layers
        if layer.kind != "weights"
        and layer.digest not in (anew if packs and needs_rewriting(layer) else as_it_is)
    ]


def _describe_packing(layers: Sequence[Layer]) -> str:
    if not layers:
        return ""
    size = format_bytes(sum(layer.size_bytes for layer in layers))
    return (
        f"; {len(layers)} of its layers, {size} as they are, are read and packed with zstd,"
        " unless the registry has them so from an earlier push"
    )


PUSH = StepKind(name="push", document=_document, decide=_decide)


def check_login(context: Context) -> None:
    """Finds the credentials that a push will need, before gigabytes are built for it.

    They are found anew for the push itself, as those of many helpers live for minutes only.

    Raises:
        PushError: the docker config or its helper cannot be used; nothing was sent.
    """
    if not context.options.push:
        return
    host = parse_reference(context.manifest.image).host
    is_own = is_sealed(f"http://{host}")  # a registry of this machine wants no login
    if find_credentials(host).is_empty and not is_own:
        context.console.warn(
            f"the docker config has no credentials for {host}, which will be asked anonymously: "
            f"docker login {host}"
        )


def push_to_registry(run: Run, image: Image) -> Mapping[str, Any]:
    """Sends the registry what it lacks; the tag moves last."""
    reference = reference_of(run.context.manifest, image)
    for warning in licence_warnings(run.lock):
        run.context.console.warn(warning)

    console, folder = run.context.console, run.context.folder

    def send() -> Mapping[str, Any]:
        if run.context.manifest.compression == "gzip":
            return push_image(image, reference, console=console).as_json()
        with folder.temporary_folder("push") as scratch:
            return push_rewritten(
                image, reference, console=console, folder=scratch, kept=run.context.kept
            ).as_json()

    return run.step("push", send)
