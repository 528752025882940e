"""Is an image what it says it is?

The bytes of every layer above the base are read and hashed, wherever the image is. The base's layers are not
ours and are named by digest: each is looked through for secrets once, and not read again. What was found in
the bytes of a digest is kept, so that a layer is looked through once for each version of what is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bake.console import Console
from bake.errors import BuildError, VerifyError
from bake.image.engine.archive import EngineContent, EngineLike, saved_blobs
from bake.image.kept import Kept
from bake.image.oci.model import (
    BASE_LAYERS_LABEL,
    REWRITTEN_FROM,
    Image,
    Layer,
    digest_of,
    read_content,
)
from bake.image.registry.client import RegistryContent
from bake.image.saved import load_saved_image
from bake.image.verify.checks import (
    check_base,
    check_files,
    check_layers,
    check_limits,
    check_proven,
    check_secrets,
)
from bake.image.verify.scan import LayerFacts, scan_layer, scan_version
from bake.image.verify.secrets import OTHER_BYTES, OTHER_TREE, Finding, SecretScanner
from bake.image.verify.verdict import Verdict
from bake.image.verify.worker import verify_worker
from bake.lock import Lock

if TYPE_CHECKING:
    from bake.image.engine.docker import Engine
    from bake.manifest.model import Warmup
    from bake.plan.state import BuildFolder
    from runtime.worker import Worker


def verify_image(
    image: Image,
    *,
    name: str,
    console: Console,
    scanner: SecretScanner | None = None,
    lock: Lock | None = None,
    proven: Mapping[str, LayerFacts] | None = None,
    kept: Kept | None = None,
    downloads_base: bool = True,
) -> Verdict:
    """Reads an image's layers and judges them.

    Args:
        image: Its layers above the base must have content.
        name: What it is called in the verdict.
        console: Progress.
        scanner: What is secret; by default known forms and this machine's own tokens.
        lock: What must be in it; the image's own lock if not given.
        proven: By digest, layers whose bytes were hashed as they were sent; they are not read again.
        kept: What earlier verifications have found; nothing is kept if not given.
        downloads_base: Whether layers of the base are looked through that are in a registry only.

    Raises:
        BuildError: a layer cannot be read.
        PushError: the registry that it is in does not give it.
    """
    scan = _Scan(scanner=scanner or SecretScanner.from_environment(), kept=kept, console=console)
    count = count_base_layers(image)
    base, own = image.layers[:count], image.layers[count:]
    proven = proven or {}
    read = [layer for layer in own if layer.digest not in proven]
    scanned = iter(scan.facts_of(read, base=base, downloads=downloads_base))
    facts = [proven.get(layer.digest) or next(scanned) for layer in own]
    checks = [
        *check_limits(image),
        *check_layers(own, facts, known=scan.known),
        *check_files(image, own, facts, lock=lock),
        check_secrets(image, facts, scan.scanner),
        *check_base(base, scan.in_base),
        *check_proven(own, proven),
    ]
    return Verdict(
        image=name,
        digest=image.identity,
        checks=tuple(checks),
        read_bytes=sum(layer.size_bytes for layer in read),
    )


def count_base_layers(image: Image) -> int:
    """How many of the lowest layers are the base's: none where the label and the manifest differ.

    A layer that was packed anew at a push says which one it was.
    """
    labels = image.labels
    said = str(labels.get(BASE_LAYERS_LABEL, "")).split()
    lowest = [
        layer.descriptor.annotations.get(REWRITTEN_FROM, layer.digest)
        for layer in image.layers[: len(said)]
    ]
    return len(said) if said == lowest else 0


def verify_final(
    reference: str,
    *,
    engine: Engine,
    worker: Worker,
    warmup: Warmup,
    folder: BuildFolder,
    console: Console,
    kept: Kept | None = None,
) -> Mapping[str, Any]:
    """Verifies what a bake has assembled and loaded, and lets it draw the warm-up's picture.

    The layers are read where they were loaded from; that the engine has the same image is known by its id.

    Args:
        reference: The image in the engine.
        engine: Runs the worker.
        worker: What the image knows of itself.
        warmup: The job.
        folder: Has `image.json`.
        console: Progress.
        kept: What earlier verifications have found.

    Returns:
        The verdict, as JSON.

    Raises:
        VerifyError: a check failed; all that failed are named.
    """
    image = load_saved_image(folder.root, engine=engine)
    if engine.image_id(reference) not in (image.digest, image.config_digest):
        raise VerifyError(
            "the engine has another image of that name",
            where=reference,
            hint="bake image MANIFEST gives it to the engine again",
        )
    verdict = verify_image(image, name=reference, console=console, kept=kept, downloads_base=False)
    trial = verify_worker(
        engine, reference, worker=worker, job=warmup.payload(), run=folder.identity
    )
    verdict = verdict.with_check(trial.check)
    console.event("verdict", **verdict.as_json())
    refuse_bad(verdict)
    drawn = (trial.output or {}).get("bakery")
    return {
        **verdict.as_json(),
        "worker_seconds": trial.seconds,
        "worker_start": trial.start,
        "worker_timings": drawn.get("timings") if isinstance(drawn, dict) else None,
    }


def refuse_bad(verdict: Verdict) -> None:
    """Raises VerifyError that names every failed check, each with its remedy."""
    failed = [check for check in verdict.checks if check.severity == "error"]
    if failed:
        raise VerifyError(
            "the image is not what it should be:\n  "
            + "\n  ".join(f"{check.name}: {check.message}" for check in failed),
            where=verdict.image,
            hint="; ".join(dict.fromkeys(check.remedy for check in failed if check.remedy)),
        )


@dataclass(kw_only=True)
class _Scan:
    """Reads layers, and looks through those of whose bytes nothing is known yet."""

    scanner: SecretScanner
    kept: Kept | None
    console: Console
    known: int = 0
    """How many layers were hashed only."""
    in_base: dict[str, Sequence[Finding]] = field(default_factory=dict)
    """What is in each layer of the base, by digest; those that were not read are missing."""

    def facts_of(
        self, layers: Sequence[Layer], *, base: Sequence[Layer], downloads: bool
    ) -> list[LayerFacts]:
        """The facts of each layer, in their order, and `in_base`; layers of an engine are read in one stream.

        Args:
            layers: The image's own.
            base: The base's; those that are known already are not read.
            downloads: Whether the base's are read from a registry, too.
        """
        facts: dict[str, LayerFacts] = {}
        own = {layer.digest for layer in layers}
        elsewhere = type(None) if downloads else (type(None), RegistryContent)
        unknown = [layer for layer in base if not self._is_known(layer)]
        new = [layer for layer in unknown if not isinstance(layer.content, elsewhere)]
        total = sum(layer.size_bytes for layer in (*layers, *new))
        with self.console.progress("verify", total) as progress:
            for layer, chunks in _all_bytes([*layers, *new]):
                if layer.digest in own:
                    facts[layer.digest] = self._facts(layer, progress.passing(chunks))
                else:
                    self._note_base(layer, progress.passing(chunks))
        return [facts[layer.digest] for layer in layers]

    def _is_known(self, layer: Layer) -> bool:
        found = self._kept_findings(layer)
        if found is not None:
            self.in_base[layer.digest] = found
        return found is not None

    def _note_base(self, layer: Layer, chunks: Iterator[bytes]) -> None:
        """Of a base's files nothing is kept: there are tens of thousands."""
        found = scan_layer(chunks, self.scanner)
        wrong = ""
        if found.digest != layer.digest:
            wrong = OTHER_BYTES
        elif found.diff_id != layer.diff_id:
            wrong = OTHER_TREE
        findings = [Finding(kind=wrong, where=layer.digest)] if wrong else found.findings
        self.in_base[layer.digest] = [*self.in_base.get(layer.digest, ()), *findings]
        if self.kept is not None and not wrong:
            texts = [asdict(finding) for finding in found.findings]
            value = {"diff_id": found.diff_id, "findings": texts}
            self.kept.write("findings", layer.digest, self._version, value)

    def _kept_findings(self, layer: Layer) -> Sequence[Finding] | None:
        def parse(data: Any) -> Sequence[Finding]:
            if data["diff_id"] != layer.diff_id:
                raise ValueError("is read again, and found to be another tree")
            return [Finding(**each) for each in data["findings"]]

        if self.kept is None:
            return None
        return self.kept.read("findings", layer.digest, self._version, parse)

    def _facts(self, layer: Layer, chunks: Iterator[bytes]) -> LayerFacts:
        """What the bytes at hand hold, whatever the layer's digest says of them."""
        found = self._kept_facts(layer.digest)
        if found is not None:
            if digest_of(chunks)[0] == layer.digest:
                self.known += 1
                return found
            chunks = _read(layer)
        found = scan_layer(chunks, self.scanner)
        if self.kept is not None:
            self.kept.write("facts", found.digest, self._version, found.as_json())
        return found

    def _kept_facts(self, digest: str) -> LayerFacts | None:
        if self.kept is None:
            return None
        found = self.kept.read("facts", digest, self._version, LayerFacts.from_json)
        return found if found is not None and found.digest == digest else None

    @cached_property
    def _version(self) -> str:
        return scan_version(self.scanner)


def _all_bytes(layers: Sequence[Layer]) -> Iterator[tuple[Layer, Iterator[bytes]]]:
    """Each layer with its bytes; those of an engine first, as they come by in its one stream."""
    # By image: what a base's layers were read from may be another one than the image itself.
    in_engine: dict[str, dict[str, Layer]] = {}
    engines: dict[str, EngineLike | None] = {}
    for layer in layers:
        if isinstance(layer.content, EngineContent):
            engines[layer.content.image] = layer.content.engine
            in_engine.setdefault(layer.content.image, {})[layer.content.member] = layer
    for image, members in in_engine.items():
        for member, chunks in saved_blobs(image, set(members), engine=engines[image]):
            yield members.pop(member), chunks
    for layer in layers:
        content = layer.content
        if not isinstance(content, EngineContent) or content.member in in_engine[content.image]:
            yield layer, _read(layer)


def _read(layer: Layer) -> Iterator[bytes]:
    if layer.content is None:
        raise BuildError("its bytes are not at hand", where=layer.comment or layer.digest)
    return read_content(layer.content, where=layer.comment or layer.digest)
