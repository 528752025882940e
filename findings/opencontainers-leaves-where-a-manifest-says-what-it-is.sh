#!/usr/bin/env bash
# opencontainers 0.0.15 (the OCI specifications' types in Python): Manifest.load and Index.load know no mediaType at
# the top of a document, which the image specification asks for since 1.0.2 and builders write. The answer is
# SystemExit, so that a program ends with status 1 past every `except Exception`. In a config it is `variant`.
#
# Guessed before: a manifest as builders write it is loaded and comes out equal.
# Seen 2026-11-27 (Python 3.11):
#   manifest: loaded, equal
#   manifest with mediaType: SystemExit 1
#   index with mediaType: SystemExit 1
#   config: loaded, equal
#   config with variant: SystemExit 1
# Why it matters: a registry tool or a policy hook that checks what was pushed stops at the first modern image, and as
# SystemExit is no Exception, its own handler, which would have logged which image, never runs.
# Remedy: check against the JSON schemas of the specification.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opencontainers==0.0.15
cat >"$folder/try.py" <<'PYTHON'
from opencontainers.image.v1 import Image, Index, Manifest

OCI = "application/vnd.oci.image"


def described(kind):
    return {"mediaType": f"{OCI}.{kind}", "digest": "sha256:" + "a" * 64, "size": 3}


def tell(what, cls, document):
    value = cls()
    try:
        value.load(document)
    except SystemExit as error:
        print(f"{what}: SystemExit {error.code}")
    else:
        print(f"{what}: loaded, {'equal' if value.to_dict() == document else 'not equal'}")


manifest = {"schemaVersion": 2, "config": described("config.v1+json"), "layers": [described("layer.v1.tar+gzip")]}
tell("manifest", Manifest, manifest)
tell("manifest with mediaType", Manifest, {**manifest, "mediaType": f"{OCI}.manifest.v1+json"})
index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [described("manifest.v1+json")]}
tell("index with mediaType", Index, index)
config = {
    "created": "2024-01-01T00:00:00Z",
    "architecture": "arm64",
    "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "b" * 64]},
    "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "COPY model /"}],
}
tell("config", Image, config)
tell("config with variant", Image, {**config, "variant": "v8"})
PYTHON
"$folder/venv/bin/python" "$folder/try.py" | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
manifest: loaded, equal
manifest with mediaType: SystemExit 1
index with mediaType: SystemExit 1
config: loaded, equal
config with variant: SystemExit 1
SEEN
