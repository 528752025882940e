"""The step `stream`: weights that the store lacks, and is not to get, go from their source to the registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from bake.errors import SourceError
from bake.image.final.final import place_weights
from bake.image.oci.layers import (
    PlacedFile,
    WeightsLayer,
    group_files,
    keep_digest,
    known_digest,
    make_weights_layer,
    tar_size,
)
from bake.image.oci.model import RAW_LAYER, Descriptor, Layer
from bake.image.oci.reference import Reference, parse_reference
from bake.image.oci.streamed import StreamedFile, StreamedLayer
from bake.image.registry.client import RegistryClient, RegistryContent
from bake.image.registry.push import push_stream
from bake.image.verify.scan import LayerFacts, facts_of_weights
from bake.lock import Pin
from bake.plan.state import Document
from bake.plan.step import Earlier, Situation, Step, StepKind, StepName, new_pins, total_bytes
from bake.steps.run import Context, Run
from bake.weights.check import Facts, check_weights, inspect_start
from bake.weights.streamed import stream_pin
from runtime.worker import Worker


def _document(situation: Situation, _earlier: Earlier) -> Document | None:
    if not situation.streamed:
        return None
    pins = [pin for pin in situation.lock.pins if pin.key in situation.streamed]
    own = {f"weights {pin.key}": pin.sha256 for pin in pins}
    return {**own, "repository": situation.manifest.image}


def _decide(name: StepName, document: Document, situation: Situation, _earlier: Earlier) -> Step:
    """Always runs, as a push does: only the registry knows what it has."""
    new = [pin for pin in new_pins(document, situation) if pin.key in situation.streamed]
    named = f"straight from their sources to the registry: {', '.join(pin.key for pin in new)}"
    return Step(
        name=name,
        document=document,
        runs=True,
        why=named if new else "the registry is asked what it lacks of the weights",
        size_bytes=total_bytes(new),
    )


STREAM = StepKind(name="stream", document=_document, decide=_decide)


@dataclass(frozen=True, kw_only=True)
class StreamedWeights:
    """All weights layers of an image, some of which are in the registry and nowhere else."""

    layers: Sequence[Layer]
    proven: Mapping[str, LayerFacts] = field(default_factory=dict)
    """By digest, what the registry got from a source: hashed on the way."""


def check_source(context: Context, pin: Pin) -> Facts | None:
    """Holds the start of a file that is not in the store against the manifest, warns, and says what it is.

    Raises:
        SourceError: the source refuses, or has another kind of file, or one of another family.
    """
    if pin.role == "config":  # a file of this machine, which the lock has just been checked with
        return None
    with _open(context, pin, PurePosixPath(pin.file_name)) as file:
        facts = inspect_start(
            file.open_at(0), file.size_bytes, where=f"{pin.key} ({pin.file_name})"
        )
    for warning in check_weights(facts, context.manifest, pin):
        context.console.warn(warning)
    if facts.format == "pickle":
        raise SourceError(
            "a pickle is looked through before it is baked, which needs the store",
            where=f"{pin.key} ({pin.file_name})",
            hint="bake with the store, or choose a .safetensors file",
        )
    return facts


def stream_weights(run: Run, worker: Worker) -> StreamedWeights | None:
    """Sends the registry the weights layers that the store cannot give; None where it has every file.

    A layer that is sent already, in this bake or an earlier one, is not sent again.

    Raises:
        SourceError: a file is not what the lock says, or does not come; its upload is given up.
        PushError: the registry refuses it.
    """
    if not run.plan.streamed:
        return None
    context = run.context
    layers: list[Layer] = []
    proven: dict[str, LayerFacts] = {}

    def send() -> Mapping[str, Any]:
        target = parse_reference(context.manifest.image)
        with RegistryClient(target.host) as client:
            for group in group_files(place_weights(worker, context.store.path_of)):
                if all(context.store.has(file.sha256) for file in group):
                    cache = context.store.root / "layers"
                    layers.append(make_weights_layer(group, cache=cache).as_layer())
                    continue
                layer = _send(run, group, client, target)
                layers.append(layer)
                proven[layer.digest] = facts_of_weights(group, layer.digest)
        return {"layers": sorted(proven)}

    run.step("stream", send)
    return StreamedWeights(layers=layers, proven=proven)


def _send(
    run: Run, group: Sequence[PlacedFile], client: RegistryClient, target: Reference
) -> Layer:
    """One layer, in the registry at the end."""
    context = run.context
    cache = context.store.root / "layers"
    names = ", ".join(str(file.path) for file in group)
    digest = known_digest(group, cache)
    if digest and client.has_blob(target.repository, digest):
        context.console.say(f"{names}: the registry has it")
    else:
        pins = {pin.sha256: pin for pin in run.lock.pins}
        with ExitStack() as stack:
            files: list[StreamedFile] = [
                stack.enter_context(_open(context, pins[file.sha256], file.path)) for file in group
            ]
            stream = StreamedLayer(files=files)
            digest = push_stream(stream, str(target), console=context.console, client=client).digest
        keep_digest(group, cache, digest)
    layer = WeightsLayer(files=tuple(group), digest=digest, size_bytes=tar_size(group)).as_layer()
    return Layer(
        descriptor=Descriptor(media_type=RAW_LAYER, digest=digest, size_bytes=layer.size_bytes),
        diff_id=digest,
        comment=layer.comment,
        kind="weights",
        content=RegistryContent(host=target.host, repository=target.repository, digest=digest),
    )


@contextmanager
def _open(context: Context, pin: Pin, path: PurePosixPath) -> Iterator[StreamedFile]:
    with stream_pin(
        pin,
        path,
        settings=context.settings,
        store=context.store,
        console=context.console,
        folder=context.manifest.path.parent,
    ) as file:
        yield file
