"""The checks of `bake verify` that need no running worker: pure functions of what was read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from bake.console import format_bytes
from bake.files import digest_of_list
from bake.image.oci.model import (
    BASE_DIGEST_LABEL,
    LAYERS_LABEL,
    LOCK_LABEL,
    PROVENANCE_FILE,
    REWRITTEN_FROM,
    SBOM_FILE,
    Image,
    Layer,
)
from bake.image.registry.packed import tag_of
from bake.image.verify.scan import FileFacts, LayerFacts
from bake.image.verify.secrets import (
    OTHER_BYTES,
    OTHER_TREE,
    Finding,
    SecretScanner,
    is_public,
    is_waste,
)
from bake.image.verify.verdict import Check, make_check
from bake.lock import ExtensionPin, Lock
from runtime.worker import WEIGHTS_MTIME, WORKER_FILE, Extension, Weights, Worker

_Kept = Mapping[PurePosixPath, bytes]

MOST_LAYERS = 127
"""Overlay mounts of common kernels and engines end here."""
MOST_BYTES = 80 * 10**9
"""RunPod's limit for an image."""
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What parsing of JSON raises that is of another form."""
LARGE_LAYER_BYTES = 10 * 10**9
"""Registries refuse layers from here on (GHCR: 10 GB), or time out."""


def check_limits(image: Image) -> Iterable[Check]:
    """Size, number of layers and largest layer against what registries and RunPod take."""
    largest = max(image.layers, key=lambda layer: layer.size_bytes)
    count = len(image.layers)
    yield make_check(
        "size",
        image.size_bytes <= MOST_BYTES,
        f"the image has {image.size_bytes / 1e9:.2f} GB in the registry; RunPod takes 80 GB",
        "leave LoRAs or a second checkpoint to a network volume",
    )
    yield make_check(
        "layers",
        count <= MOST_LAYERS,
        f"the image has {count} layers; engines take {MOST_LAYERS}",
        "build the base with fewer steps",
    )
    yield make_check(
        "largest-layer",
        largest.size_bytes <= LARGE_LAYER_BYTES,
        f"the largest layer has {largest.size_bytes / 1e9:.2f} GB ({largest.comment or largest.digest})",
        "registries such as GHCR refuse layers above 10 GB; take a smaller (pruned, fp16) file",
        otherwise="warning",
    )


def check_layers(
    layers: Sequence[Layer], facts: Sequence[LayerFacts], *, known: int = 0
) -> Iterable[Check]:
    """Whether each layer's bytes are those that the manifest and the config name.

    Args:
        layers: Those above the base.
        facts: Of each.
        known: How many were hashed, and looked through by an earlier verification.
    """
    wrong = []
    for layer, found in zip(layers, facts, strict=True):
        if layer.digest != found.digest:
            wrong.append(f"{layer.digest} holds {found.digest}")
        if found.unsound:
            wrong.append(f"{layer.digest} does not unpack: {found.unsound}")
        elif layer.digest == found.digest and layer.diff_id != found.diff_id:
            wrong.append(f"{layer.digest} unpacks to another tree than the config says")
    yield make_check(
        "digests",
        not wrong,
        "; ".join(wrong)
        or f"{len(layers)} layers above the base are what their digests say"
        + (f", {known} of them looked through before" if known else ""),
        "push or load the image again",
    )


def check_files(
    image: Image, layers: Sequence[Layer], facts: Sequence[LayerFacts], *, lock: Lock | None
) -> Iterable[Check]:
    """Whether the weights of worker.json and the lock are there, right, and not touched again."""
    kept = {path: data for found in facts for path, data in found.kept.items()}
    try:
        worker = Worker.from_json(kept[PurePosixPath(WORKER_FILE)].decode())
    except _UNREADABLE as error:
        reason = "there is none" if isinstance(error, KeyError) else "it cannot be read"
        yield Check(
            name="worker-file",
            severity="error",
            message=f"{WORKER_FILE}: {reason}",
            remedy="bake the image again; this is no image of bake's",
        )
        return
    expected = _read_lock(image, lock)
    yield expected if isinstance(expected, Check) else _check_lock(worker, expected)
    yield check_documents(image, worker, kept)
    for weights in worker.weights:
        yield from _check_weights(weights, layers, facts)
    pins = () if isinstance(expected, Check) else expected.extensions
    for extension in worker.extensions:
        pin = next((each for each in pins if each.name == extension.name), None)
        yield _check_extension(extension, pin, facts, worker.weights)


def _read_lock(image: Image, lock: Lock | None) -> Lock | Check:
    try:
        return lock or Lock.from_json(image.labels[LOCK_LABEL])
    except KeyError:
        return Check(
            name="lock",
            severity="error",
            message="the image holds no lock to compare with",
            remedy="bake the image again, or name its lock: --lock manifests/NAME.lock.json",
        )
    except _UNREADABLE:
        return Check(
            name="lock",
            severity="error",
            message="the image's lock cannot be read",
            remedy="bake the image again",
        )


def _check_lock(worker: Worker, expected: Lock) -> Check:
    baked = {(each.role, each.name): each.sha256 for each in worker.weights}
    pinned = {(pin.role, pin.name): pin.sha256 for pin in expected.pins}
    wrong = [
        f"{role} {name} is {'missing' if (role, name) not in baked else 'another file'}"
        for (role, name), sha256 in pinned.items()
        if baked.get((role, name)) != sha256
    ]
    wrong += [f"{role} {name} is not in the lock" for role, name in baked.keys() - pinned.keys()]
    extensions = {each.name: each.commit for each in worker.extensions}
    commits = {each.name: each.commit for each in expected.extensions}
    wrong += [
        f"extension {name} is {'missing' if name not in extensions else 'another commit'}"
        for name, commit in commits.items()
        if extensions.get(name) != commit
    ]
    return make_check(
        "lock",
        not wrong,
        "; ".join(wrong) or f"the worker has the {len(pinned)} files of the lock",
        "bake the image again from its manifest",
    )


def _check_weights(
    weights: Weights, layers: Sequence[Layer], facts: Sequence[LayerFacts]
) -> Iterable[Check]:
    path = PurePosixPath(weights.path)
    name = f"weights {weights.role} {weights.name}"
    holding = [index for index, found in enumerate(facts) if path in found.files]
    if not holding:
        yield Check(
            name=name,
            severity="error",
            message=f"{path} is in no layer above the base",
            remedy="bake the image again",
        )
        return
    found = facts[holding[-1]].files[path]
    wrong = []
    if found.sha256 != weights.sha256:
        wrong.append(f"its SHA256 is {found.sha256}, {weights.sha256} was pinned")
    if (found.uid, found.gid, found.mode) != (0, 0, 0o644):
        wrong.append(f"it belongs to {found.uid}:{found.gid} with mode {found.mode:o}")
    if found.mtime != WEIGHTS_MTIME:
        wrong.append("its time is not the one that the webui's hash cache was made for")
    yield make_check(
        name,
        not wrong,
        f"{path}: " + ("; ".join(wrong) or f"{format_bytes(found.size_bytes)} with its SHA256"),
        "bake the image again",
    )
    for index in range(holding[0] + 1, len(facts)):
        touched = facts[index].touches(path)
        if touched:
            layer = layers[index]
            yield Check(
                name=f"untouched {weights.role} {weights.name}",
                severity="error",
                message=f"a layer above {path} {touched} ({layer.comment or layer.digest},"
                f" {format_bytes(layer.size_bytes)})",
                remedy="no step of a Dockerfile may write, chown or chmod the weights: each such "
                "step stores and pulls them a second time",
            )


def _check_extension(
    extension: Extension,
    pin: ExtensionPin | None,
    facts: Sequence[LayerFacts],
    weights: Sequence[Weights],
) -> Check:
    """Whether the files of the commit are there as they were pinned, whatever layers say; models have their own check."""
    folder = PurePosixPath(extension.path)
    models = {PurePosixPath(each.path) for each in weights}
    found: dict[PurePosixPath, FileFacts] = {}
    for layer in facts:
        found = {path: each for path, each in found.items() if not layer.touches(path)}
        found |= {path: layer.files[path] for path in layer.files if path.is_relative_to(folder)}
    own = [
        (str(path.relative_to(folder)), each.sha256, bool(each.mode & 0o100))
        for path, each in found.items()
        if "__pycache__" not in path.parts and path not in models
    ]
    wrong = ""
    if not own:
        wrong = f"{folder} is in no layer above the base"
    elif pin is not None and digest_of_list(own) != pin.files_sha256:
        wrong = f"{folder} has other files than commit {pin.commit} of {pin.url}"
    return make_check(
        f"extension {extension.name}",
        not wrong,
        wrong or f"{folder}: {len(own)} files of commit {extension.commit[:12]}",
        "bake the image again",
    )


def check_documents(image: Image, worker: Worker, kept: _Kept) -> Check:
    """Whether bill of materials, provenance and labels speak of this image and its weights."""
    texts = [kept.get(PurePosixPath(name)) for name in (SBOM_FILE, PROVENANCE_FILE)]
    if None in texts:
        return Check(
            name="documents",
            severity="warning",
            message="the image has no bill of materials, or no provenance",
            remedy="bake the image again",
        )
    labels = image.labels
    try:
        sbom, provenance = (json.loads(text or b"") for text in texts)
        wrong = list(_wrong_documents(sbom, provenance, worker, labels))
    except _UNREADABLE:
        wrong = ["one of them cannot be read"]
    return make_check(
        "documents",
        not wrong,
        "; ".join(wrong) or "bill of materials and provenance name these weights, layers and base",
        "bake the image again",
    )


def _wrong_documents(
    sbom: Any, provenance: Any, worker: Worker, labels: Mapping[str, str]
) -> Iterable[str]:
    hashes = {each["content"] for part in sbom["components"] for each in part.get("hashes", ())}
    definition = provenance["predicate"]["buildDefinition"]
    sources = {each["digest"]["sha256"] for each in definition["resolvedDependencies"]}
    for weights in worker.weights:
        if weights.sha256 not in hashes:
            yield f"the bill of materials does not name {weights.role} {weights.name} with its SHA256"
        if weights.sha256 not in sources:
            yield f"the provenance does not name {weights.role} {weights.name} with its SHA256"
    commits = {each["digest"].get("gitCommit") for each in definition["resolvedDependencies"]}
    for extension in worker.extensions:
        if extension.commit not in commits:
            yield f"the provenance does not name the commit of the extension {extension.name}"
    base = labels.get(BASE_DIGEST_LABEL)
    if base and base[7:] not in sources:
        yield f"the provenance names another base than the label {BASE_DIGEST_LABEL}"
    named = [each["digest"]["sha256"] for each in provenance["subject"]]
    # By the label: an engine with the classic store has the same layers as other blobs.
    ours = [digest[7:] for digest in labels.get(LAYERS_LABEL, "").split()]
    if not named or named != ours[: len(named)]:
        yield f"the provenance names other layers than the label {LAYERS_LABEL}"


def check_proven(layers: Sequence[Layer], proven: Mapping[str, LayerFacts]) -> Iterable[Check]:
    """Says which layers were not read for this verdict."""
    names = [layer.comment or layer.digest for layer in layers if layer.digest in proven]
    if names:
        yield Check(
            name="streamed",
            severity="ok",
            message=f"hashed on their way into the registry, not read again: {'; '.join(names)}",
        )


def check_secrets(image: Image, facts: Sequence[LayerFacts], scanner: SecretScanner) -> Check:
    """Whether layers, history, environment or labels hold what must stay secret."""
    config = image.config
    findings: list[Finding] = [finding for found in facts for finding in found.findings]
    for place, text in _config_texts(config):
        findings += scanner.look_at(text.encode(), where=place)
    findings += scanner.look_at(image.manifest_json, where="the manifest")
    secret = [finding for finding in findings if not finding.is_published]
    texts = [f"{each.kind} in {each.where}" for each in secret[:10]]
    more = f" and {len(secret) - 10} more" if len(secret) > 10 else ""
    published = len(findings) - len(secret)
    note = f" ({published} published test keys of packages aside)" if published else ""
    return make_check(
        "secrets",
        not secret,
        ("; ".join(texts) + more if secret else "no token, private key, .git or pip cache") + note,
        "revoke the secret, give it to builds as a build secret, and bake again",
    )


def check_base(layers: Sequence[Layer], found: Mapping[str, Sequence[Finding]]) -> Iterable[Check]:
    """Whether the base, which is not ours, holds what must stay secret.

    Args:
        layers: The base's.
        found: By digest, what is in each of those that were looked through.
    """
    if not layers:
        return
    findings = [each for layer in layers for each in found.get(layer.digest, ())]
    findings = [each for each in findings if not is_public(each)]
    unread = [layer for layer in layers if layer.digest not in found]
    messages = [f"{each.kind} in {each.where}" for each in findings[:10]]
    if len(findings) > 10:
        messages.append(f"{len(findings) - 10} more")
    if unread:
        messages.append(
            f"{len(unread)} of {len(layers)} layers are not at hand, and were not looked through"
        )
    yield make_check(
        "base",
        not messages,
        "; ".join(messages) or f"no token or private key in {len(layers)} layers of the base",
        _remedy_of_base(findings, layers),
        otherwise="warning" if all(map(is_waste, findings)) else "error",
    )


def _remedy_of_base(findings: Sequence[Finding], layers: Sequence[Layer]) -> str:
    damaged = {each.where for each in findings if each.kind in (OTHER_BYTES, OTHER_TREE)}
    packed = {
        tag_of(layer)
        for layer in layers
        if layer.digest in damaged and REWRITTEN_FROM in layer.descriptor.annotations
    }
    if packed:
        return (
            f"what is under the tag {', '.join(sorted(packed))} is not what it should be: delete it from the base's and"
            " the image's repository, then bake push MANIFEST packs the layer anew"
        )
    if damaged:
        return "pull or build the base again, then bake image MANIFEST"
    if findings:
        return "take it out of the base, revoke what is secret, and bake again"
    return "bake verify IMAGE --registry reads them"


def _config_texts(config: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    container = config.get("config") or {}
    for number, entry in enumerate(config.get("history") or []):
        yield f"the history, step {number + 1}", json.dumps(entry, ensure_ascii=False)
    for variable in container.get("Env") or []:
        yield f"the environment, {variable.partition('=')[0]}", variable
    rest = {key: value for key, value in container.items() if key != "Env"}
    more = {key: value for key, value in config.items() if key not in ("config", "history")}
    yield "the config", json.dumps([rest, more], ensure_ascii=False)
