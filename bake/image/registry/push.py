"""Pushes an image: what the registry lacks is uploaded, several blobs at once, and the manifest comes last.

So a push that fails anywhere leaves the tag as it was: at its old image, or absent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from bake.console import Console, Progress, format_bytes
from bake.errors import BuildError, PushError
from bake.image.engine.archive import EngineContent, saved_blobs
from bake.image.oci.model import (
    MANIFEST,
    REWRITTEN_FROM,
    ZSTD_LAYER,
    BytesContent,
    Content,
    Descriptor,
    Image,
    Layer,
)
from bake.image.oci.reference import Reference, parse_reference
from bake.image.parallel import run_in_parallel
from bake.image.registry.answers import Refused
from bake.image.registry.client import RegistryClient, RegistryContent
from bake.image.registry.transport import RegistryOptions
from bake.image.registry.upload import Blob, How, Uploader

T = TypeVar("T")
_SHOWN_WITHIN_S = 20.0


@dataclass(frozen=True, kw_only=True)
class PushedLayer:
    """What a push did with one layer."""

    digest: str
    kind: str
    comment: str
    size_bytes: int
    how: How
    """`present` before, `mounted` from another repository, or `uploaded`."""
    rewritten_from: str = ""
    """The digest of the layer that was packed anew, where this is not the image's own."""


@dataclass(frozen=True, kw_only=True)
class PushReport:
    """What a push did."""

    reference: str
    digest: str
    """What the tag points at."""
    assembled: str
    """The digest of the image that was to be pushed: another one where layers were packed anew."""
    layers: tuple[PushedLayer, ...]
    sent_bytes: int
    """Everything that went over the wire in bodies, repeats included."""
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For `--json` and reports."""
        return {
            "reference": self.reference,
            "digest": self.digest,
            "assembled": self.assembled,
            "sent_bytes": self.sent_bytes,
            "seconds": round(self.seconds, 3),
            "layers": [
                {
                    "digest": layer.digest,
                    "kind": layer.kind,
                    "comment": layer.comment,
                    "size_bytes": layer.size_bytes,
                    "how": layer.how,
                    "rewritten_from": layer.rewritten_from,
                }
                for layer in self.layers
            ],
        }


def push_image(
    image: Image,
    reference: str,
    *,
    console: Console,
    options: RegistryOptions | None = None,
    client: RegistryClient | None = None,
    assembled: str = "",
) -> PushReport:
    """Pushes an image to a registry.

    Args:
        image: Its layers must have content unless the registry has them already.
        reference: Where to, with a tag.
        console: Progress.
        options: Retries, chunks, TLS; the environment's if not given.
        client: Instead of one made from `options` and the docker config.
        assembled: The digest of the image that this one was rewritten from, for the report.

    Raises:
        PushError: the registry refuses or does not answer; the tag is as it was.
        BuildError: a layer's bytes cannot be had, or are not those of its digest.
    """
    target = parse_reference(reference)
    began = time.monotonic()
    with client or RegistryClient(target.host, options=options) as registry:
        push = _Push(image, target, registry, console)
        hows = push.send_layers()
        push.send_config()
        is_proven = _put_manifest(registry, target, image)
        _read_back(registry, target, image.digest, console, is_proven=is_proven)
    report = PushReport(
        reference=str(target),
        digest=image.digest,
        assembled=assembled or image.digest,
        layers=tuple(
            PushedLayer(
                digest=layer.digest,
                kind=layer.kind,
                comment=layer.comment,
                size_bytes=layer.size_bytes,
                how=hows[layer.digest],
                rewritten_from=layer.descriptor.annotations.get(REWRITTEN_FROM, ""),
            )
            for layer in image.layers
        ),
        sent_bytes=push.sent_bytes,
        seconds=time.monotonic() - began,
    )
    console.event("pushed", **report.as_json())
    return report


def _put_manifest(registry: RegistryClient, target: Reference, image: Image) -> bool:
    media_type = image.manifest.get("mediaType", MANIFEST)
    try:
        return registry.put_manifest(target, image.manifest_json, media_type)
    except PushError as error:
        # Where no tag may be moved, one that points at this image need not be; the answer that it does may be lost.
        if _shows(registry, target, image.digest):
            return True
        if not isinstance(error, Refused) or all(
            layer.descriptor.media_type != ZSTD_LAYER for layer in image.layers
        ):
            raise
        raise PushError(
            f"{error.what}: perhaps it takes no layers under zstd",
            where=error.where,
            hint="write compression: gzip into the manifest, which every registry takes, then bake push MANIFEST",
        ) from error


def _shows(registry: RegistryClient, target: Reference, digest: str) -> bool:
    try:
        return registry.manifest_digest(target) == digest
    except PushError:
        return False


def _read_back(
    registry: RegistryClient, target: Reference, digest: str, console: Console, *, is_proven: bool
) -> None:
    """Looks at what the tag points at, as GHCR, Docker Hub and ECR show a manifest some seconds late.

    Args:
        registry: Has taken the manifest.
        target: The tag.
        digest: What it should point at.
        console: Is told what is no error.
        is_proven: The answer to the PUT has named the digest, which is proof enough.

    Raises:
        PushError: without that proof, the tag points at something else all the time.
    """
    deadline = time.monotonic() + (0 if is_proven else _SHOWN_WITHIN_S)
    pause_s = 0.1
    while True:
        # Before the look: however long this machine stands still, what has come meanwhile is seen.
        is_late = time.monotonic() >= deadline
        try:
            shown = registry.manifest_digest(target)
        except PushError as error:  # credentials that may push only, for one
            console.say(f"{target} is pushed, but cannot be read back: {error.what}")
            return
        if shown == digest:
            return
        if is_late:
            break
        time.sleep(pause_s)
        pause_s = min(2.0, 2 * pause_s)
    if not is_proven:
        raise PushError(
            f"the registry took the image, but its tag does not point at it after {_SHOWN_WITHIN_S:.0f} s",
            where=str(target),
            hint=f"bake inspect {target}; if it is not {digest}, push again",
        )
    console.say(f"{target} is pushed; the registry does not show it yet")


def push_stream(
    content: StreamLike, reference: str, *, console: Console, client: RegistryClient
) -> Descriptor:
    """Uploads a layer whose bytes, and so whose digest, are known only when they have passed.

    Args:
        content: Raises where its bytes are not what they should be, which abandons the upload.
        reference: The repository that the image will be pushed to.
        console: Progress.
        client: The registry's.

    Returns:
        The layer's descriptor; a push of an image with it finds the blob present.
    """
    target = parse_reference(reference)
    with console.progress("weights", content.size_bytes) as progress:
        uploader = Uploader(client=client, repository=target.repository, on_sent=progress.advance)
        digest = uploader.upload(
            Blob(content=content, size_bytes=content.size_bytes, digest=content.digest)
        )
    return Descriptor(media_type=content.media_type, digest=digest, size_bytes=content.size_bytes)


class StreamLike(Content, Protocol):
    """What `push_stream` takes: `bake.image.oci.streamed.StreamedLayer`."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def media_type(self) -> str: ...

    def digest(self) -> str:
        """Known when all bytes were read."""
        ...


class _Push:
    """One push under way."""

    def __init__(
        self, image: Image, target: Reference, registry: RegistryClient, console: Console
    ) -> None:
        self._image = image
        self._target = target
        self._registry = registry
        self._console = console
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._uploader = Uploader(
            client=registry, repository=target.repository, on_sent=self._count
        )
        self.sent_bytes = 0

    def send_layers(self) -> dict[str, How]:
        """Brings every layer into the repository. Returns how, by digest."""
        layers = list({layer.digest: layer for layer in self._image.layers}.values())
        states = self._in_parallel([partial(self._find, each) for each in layers])
        hows: dict[str, How] = dict(zip((each.digest for each in layers), states, strict=True))
        missing = [layer for layer in layers if hows[layer.digest] == "uploaded"]
        self._say_plan(missing, hows)
        if missing:
            total = sum(layer.size_bytes for layer in missing)
            with self._console.progress("push", total) as self._progress:
                self._in_parallel(list(self._uploads(missing)))
        return hows

    def send_config(self) -> None:
        """Uploads the config."""
        digest, data = self._image.config_digest, self._image.config_json
        if not self._registry.has_blob(self._target.repository, digest):
            self._uploader.upload(
                Blob(content=BytesContent(data=data), size_bytes=len(data), digest=lambda: digest)
            )

    def _find(self, layer: Layer) -> How:
        """Looks for a layer in the repository, then in the base's repository of the same registry."""
        if self._registry.has_blob(self._target.repository, layer.digest):
            return "present"
        content = layer.content
        if (
            isinstance(content, RegistryContent)
            and content.host == self._registry.host
            and content.repository != self._target.repository
            and self._mounts(layer.digest, content.repository)
        ):
            return "mounted"
        return "uploaded"

    def _mounts(self, digest: str, source: str) -> bool:
        """A registry that forbids it, rather than answer 202, still takes an upload."""
        try:
            return self._uploader.mount(digest, source)
        except PushError as error:
            self._console.say(f"{digest} is not mounted: {error.what}")
            return False

    def _uploads(self, missing: Sequence[Layer]) -> Iterator[Callable[[], Any]]:
        """One task for each blob; one for all blobs of an engine, which come in a single stream."""
        in_engine: list[Layer] = []
        for layer in missing:
            if layer.content is None:
                raise BuildError(
                    f"the registry lacks {layer.digest}, and its bytes are not at hand",
                    where=layer.comment or "a layer of the base",
                    hint="bake again with the base image in the engine or in the registry",
                )
            if isinstance(layer.content, EngineContent):
                in_engine.append(layer)
            else:
                yield partial(self._upload, layer, layer.content)
        if in_engine:
            yield partial(self._upload_from_engine, in_engine)

    def _upload(self, layer: Layer, content: Content) -> None:
        self._uploader.upload(
            Blob(
                content=content,
                size_bytes=layer.size_bytes,
                digest=lambda: layer.digest,
                name=layer.comment,
            )
        )

    def _upload_from_engine(self, layers: Sequence[Layer]) -> None:
        contents = {
            layer.content.member: (layer, layer.content)
            for layer in layers
            if isinstance(layer.content, EngineContent)
        }
        first = next(iter(contents.values()))[1]
        seen = 0
        for member, chunks in saved_blobs(first.image, set(contents), engine=first.engine):
            layer, content = contents[member]
            self._upload(layer, _FirstPass(chunks, content))
            seen += 1
        if seen != len(contents):
            raise BuildError("the engine no longer holds all of the base", where=first.image)

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self.sent_bytes += size_bytes
            if self._progress is not None:
                self._progress.advance(size_bytes)

    def _say_plan(self, missing: Sequence[Layer], hows: dict[str, How]) -> None:
        total = sum(layer.size_bytes for layer in missing)
        counts = {how: list(hows.values()).count(how) for how in ("present", "mounted")}
        self._console.say(
            f"{len(missing)} of {len(hows)} layers to upload, {format_bytes(total)}; "
            f"{counts['present']} there already, {counts['mounted']} mounted"
        )

    def _in_parallel(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        workers = self._registry.options.parallel
        return run_in_parallel(tasks, workers=workers, stop=self._uploader.stop)


class _FirstPass:
    """A stream that can be read once, and what to read instead the next time."""

    def __init__(self, chunks: Iterator[bytes], again: Content) -> None:
        self._chunks: Iterator[bytes] | None = chunks
        self._again = again

    def chunks(self, offset_bytes: int = 0) -> Iterator[bytes]:
        chunks, self._chunks = self._chunks, None
        if chunks is not None and offset_bytes == 0:
            return chunks
        return self._again.chunks(offset_bytes)

    def describe(self) -> dict[str, Any]:
        return self._again.describe()
