"""The image's bill of materials (CycloneDX JSON) and its provenance (in-toto, SLSA v1).

Both are files of a small layer of their own, the last one. So every registry and mirror keeps them, a
copy of the image has them, the image's digest covers them, and `bake inspect` reads them by fetching one
small blob. The rejected alternative, an artifact that refers to the image (OCI referrers), is lost by
`docker pull`, `docker save` and by registries without that API. They hold no time and no machine, so that
the same inputs give the same image.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from bake import __version__
from bake.image.final.packages import Package
from bake.image.oci.layers import TreeLayer, make_tree_layer
from bake.image.oci.model import PROVENANCE_FILE, SBOM_FILE, Image, Layer, canonical_json
from bake.lock import ExtensionPin, Lock, Pin
from runtime.worker import WEIGHTS_MTIME, Worker

DOCUMENTS_COMMENT = "bill of materials and provenance"


def make_documents_layer(
    *,
    worker: Worker,
    lock: Lock,
    base: Image,
    packages: Iterable[Package],
    layers: Sequence[Layer],
    blob: Path,
) -> TreeLayer:
    """Writes the layer of the documents.

    Args:
        worker: What the image knows of itself.
        lock: Where the weights come from.
        base: What lies below.
        packages: Of the base and of the runtime's environment.
        layers: Ours, without this one, in their order.
        blob: Where it is written; its folder is used for a temporary file.
    """
    files = {
        SBOM_FILE: make_sbom(worker=worker, lock=lock, packages=packages),
        PROVENANCE_FILE: make_provenance(worker=worker, lock=lock, base=base, layers=layers),
    }
    blob.parent.mkdir(parents=True, exist_ok=True)
    tree = blob.with_name(blob.name + ".tree")
    try:
        with tarfile.open(tree, "w") as tar:
            for path, text in files.items():
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size = len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
        return make_tree_layer(tree, blob)
    finally:
        tree.unlink(missing_ok=True)


def make_sbom(*, worker: Worker, lock: Lock, packages: Iterable[Package]) -> str:
    """The bill of materials: models and extensions with sources, hashes and licences; Python and Debian packages."""
    pins = {(pin.role, pin.name): pin for pin in lock.pins}
    models = [
        _model(pins[(each.role, each.name)], size_bytes=each.size_bytes, path=each.path)
        for each in worker.weights
    ]
    extensions = [_extension(pin, worker) for pin in lock.extensions]
    parts = [*models, *extensions, *_packages(packages)]
    listed = [f"{each.bom_ref.value}" for each in parts]
    bom = Bom(
        components=parts,
        serial_number=uuid.UUID(hashlib.sha256("\n".join(listed).encode()).hexdigest()[:32]),
    )
    bom.metadata.timestamp = datetime.fromtimestamp(WEIGHTS_MTIME, tz=timezone.utc)
    bom.metadata.component = Component(
        name=worker.name,
        type=ComponentType.CONTAINER,
        bom_ref=worker.name,
        properties=[
            Property(name="bakery:version", value=__version__),
            Property(name="bakery:webui", value=f"{worker.webui.name} {worker.webui.version}"),
            Property(name="bakery:webui.revision", value=worker.webui.revision),
            Property(name="bakery:lock.sha256", value=worker.lock_sha256),
        ],
    )
    bom.register_dependency(bom.metadata.component, parts)
    data = json.loads(JsonV1Dot6(bom).output_as_string())
    return json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def make_provenance(*, worker: Worker, lock: Lock, base: Image, layers: Sequence[Layer]) -> str:
    """What the layers were made from, as an in-toto statement with SLSA's v1 predicate."""
    statement: dict[str, Any] = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://slsa.dev/provenance/v1",
        "subject": [
            {
                "name": layer.comment,
                "digest": {"sha256": layer.digest.removeprefix("sha256:")},
                "annotations": {"kind": layer.kind},
            }
            for layer in layers
        ],
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:bakery:image:v1",
                "externalParameters": {"manifest": lock.manifest_name, "family": lock.family},
                "internalParameters": {
                    "lock_sha256": worker.lock_sha256,
                    "webui": f"{worker.webui.name} {worker.webui.version}",
                    "webui_revision": worker.webui.revision,
                },
                "resolvedDependencies": [
                    {
                        "name": "base image",
                        "digest": {"sha256": base.identity.removeprefix("sha256:")},
                    },
                    *(
                        {
                            "name": pin.key,
                            "digest": {"sha256": pin.sha256},
                            **({"uri": pin.url} if pin.url else {}),
                        }
                        for pin in lock.pins
                    ),
                    *(
                        {
                            "name": pin.key,
                            "digest": {"gitCommit": pin.commit, "sha256": pin.sha256},
                            "uri": pin.url,
                        }
                        for pin in lock.extensions
                    ),
                ],
            },
            "runDetails": {
                "builder": {"id": "urn:bakery:bake", "version": {"bake": __version__}},
            },
        },
    }
    return canonical_json(statement).decode() + "\n"


def _model(pin: Pin, *, size_bytes: int, path: str) -> Component:
    licence = pin.licence
    terms = {
        "commercial_use": ",".join(licence.commercial_use or ()),
        "no_credit": licence.no_credit,
        "derivatives": licence.derivatives,
        "different_licence": licence.different_licence,
    }
    known = {"role": pin.role, "path": path, "size_bytes": size_bytes, "source": pin.source}
    known |= {"revision": pin.revision, "base_model": pin.base_model}
    known |= {f"licence.{name}": value for name, value in terms.items() if value not in (None, "")}
    return Component(
        name=pin.title or pin.name,
        version=str(pin.version_id or pin.revision or ""),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model:{pin.key}:{pin.sha256}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=pin.sha256)],
        licenses=[DisjunctiveLicense(name=licence.name)] if licence.name else [],
        external_references=[
            ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(pin.url))
        ]
        if pin.url
        else [],
        properties=[
            Property(name=f"bakery:{name}", value=str(value))
            for name, value in known.items()
            if value is not None
        ],
    )


def _extension(pin: ExtensionPin, worker: Worker) -> Component:
    baked = next(each for each in worker.extensions if each.name == pin.name)
    known = {"role": "extension", "path": baked.path, "scripts": ", ".join(baked.scripts)}
    known |= {"ref": pin.ref or "", "requirements.sha256": pin.requirements_sha256 or ""}
    return Component(
        name=pin.name,
        version=pin.commit,
        type=ComponentType.APPLICATION,
        bom_ref=f"{pin.key}:{pin.commit}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=pin.sha256)],
        licenses=[DisjunctiveLicense(name=pin.licence)] if pin.licence else [],
        external_references=[ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(pin.url))],
        properties=[
            Property(name=f"bakery:{name}", value=value) for name, value in known.items() if value
        ],
    )


def _packages(packages: Iterable[Package]) -> list[Component]:
    """One component for each package and version, in their order; of several records, all licences.

    Two components of one name would get references by chance, another at each run.
    """
    licences: dict[tuple[str, str, str], set[str]] = {}
    for each in packages:
        found = licences.setdefault((each.kind, each.name, each.version), set())
        found.update({each.licence} - {""})
    return [_package(*key, licences=sorted(found)) for key, found in sorted(licences.items())]


def _package(kind: str, name: str, version: str, *, licences: Sequence[str]) -> Component:
    namespace = "debian" if kind == "deb" else None
    purl = PackageURL(kind, namespace, name, version)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        licenses=[DisjunctiveLicense(name=licence) for licence in licences],
    )
