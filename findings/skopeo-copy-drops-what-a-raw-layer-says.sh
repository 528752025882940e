#!/usr/bin/env bash
# skopeo 1.9.3 (Debian 12): `skopeo copy` from one OCI layout to another, with no option, gzips a layer that was not
# compressed, and that layer loses its annotations; the manifest loses its artifactType. The annotations of the other
# layers and of the manifest stay, so nothing looks cut.
#
# Guessed before: a copy between two layouts keeps every byte, and a compression that is asked for keeps annotations.
# Seen 2026-11-27:
#   gzip layers alone: same manifest
#   a raw layer too, raw.tar: tar+gzip without annotations
#   a raw layer too, gzip.tar: tar+gzip with {"org.example.what":"gzip.tar"}
#   a raw layer too, manifest: artifactType null, annotations {"org.example.kind":"model"}
#   with --preserve-digests: same manifest
# Why it matters: weights do not shrink, so their layers are best left raw, and a layer's annotation is where a tool
# notes which file or checkpoint it holds. A mirror made by skopeo has another digest, pulls slower, and no longer
# says which layer is which.
# Remedy: --preserve-digests, which keeps all of it.
set -euo pipefail
skopeo --version 2>/dev/null | grep -q '^skopeo version 1\.9\.3$' || { echo "needs skopeo 1.9.3 (Debian 12: apt-get install skopeo)"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat >make.py <<'PYTHON'
import gzip
import hashlib
import io
import json
import pathlib
import tarfile

OCI = "application/vnd.oci.image"


def layout(name, ways):
    blobs = pathlib.Path(name, "blobs", "sha256")
    blobs.mkdir(parents=True)

    def keep(kind, data):
        found = hashlib.sha256(data).hexdigest()
        (blobs / found).write_bytes(data)
        return {"mediaType": f"{OCI}.{kind}", "digest": f"sha256:{found}", "size": len(data)}

    layers, diff_ids = [], []
    for way in ways:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            member = tarfile.TarInfo(way)
            tar.addfile(member)
        data = packed.getvalue()
        diff_ids.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
        raw = way == "raw.tar"
        layer = keep("layer.v1.tar" if raw else "layer.v1.tar+gzip", data if raw else gzip.compress(data, mtime=0))
        layers.append({**layer, "annotations": {"org.example.what": way}})
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = {"created": "2024-01-01T00:00:00Z", "architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "artifactType": "application/vnd.example.model",
        "config": keep("config.v1+json", json.dumps(config).encode()),
        "layers": layers,
        "annotations": {"org.example.kind": "model"},
    }
    index = {"schemaVersion": 2, "manifests": [keep("manifest.v1+json", json.dumps(manifest).encode())]}
    pathlib.Path(name, "index.json").write_text(json.dumps(index))
    pathlib.Path(name, "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def manifest(name):
    index = json.loads(pathlib.Path(name, "index.json").read_text())
    return json.loads(pathlib.Path(name, "blobs", "sha256", index["manifests"][0]["digest"][7:]).read_text())


if __name__ == "__main__":
    layout("plain", ["gzip.tar"])
    layout("mixed", ["raw.tar", "gzip.tar"])
PYTHON
cat >look.py <<'PYTHON'
import json

from make import manifest

short = json.JSONEncoder(separators=(",", ":")).encode


def compare(one, other):
    return "same manifest" if manifest(one) == manifest(other) else "another manifest"


print("gzip layers alone:", compare("plain", "plain-copy"))
copied = manifest("mixed-copy")
for name, layer in zip(("raw.tar", "gzip.tar"), copied["layers"], strict=True):
    says = f"with {short(layer['annotations'])}" if "annotations" in layer else "without annotations"
    print(f"a raw layer too, {name}: {layer['mediaType'].split('.')[-1]} {says}")
kind = short(copied.get("artifactType"))
print(f"a raw layer too, manifest: artifactType {kind}, annotations {short(copied['annotations'])}")
print("with --preserve-digests:", compare("mixed", "mixed-kept"))
PYTHON
python3 make.py
for name in plain mixed; do skopeo --insecure-policy copy --quiet "oci:$name" "oci:$name-copy"; done
skopeo --insecure-policy copy --quiet --preserve-digests oci:mixed oci:mixed-kept
python3 look.py | tee out
diff out - <<'SEEN'
gzip layers alone: same manifest
a raw layer too, raw.tar: tar+gzip without annotations
a raw layer too, gzip.tar: tar+gzip with {"org.example.what":"gzip.tar"}
a raw layer too, manifest: artifactType null, annotations {"org.example.kind":"model"}
with --preserve-digests: same manifest
SEEN
