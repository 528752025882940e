#!/usr/bin/env bash
# skopeo 1.9.3 (Debian 12): an image that goes from an OCI layout into a docker-archive (what `docker load` takes)
# and back has another config, so another image id, though no file changed. The archive still holds the config byte
# for byte; on the way back it is parsed and written anew in another order, without the fields that OCI does not
# know, a health check among them, and nothing warns.
#
# Guessed before: only the layers are packed anew; the config, which names them unpacked, keeps its digest.
# Seen 2026-11-27:
#   archive: same config
#   back again: another config, same diff_ids, lost: Healthcheck
# Why it matters: an image id is what an air-gapped site compares after it carried an archive over, and what an
# attestation or a cache of unpacked images goes by. The health check that a deployment waits for is gone as well.
# Remedy: carry an oci-archive instead, both ways with --preserve-digests, which keeps config and manifest.
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
blobs = pathlib.Path("given", "blobs", "sha256")
blobs.mkdir(parents=True)


def keep(kind, data):
    found = hashlib.sha256(data).hexdigest()
    (blobs / found).write_bytes(data)
    return {"mediaType": f"{OCI}.{kind}", "digest": f"sha256:{found}", "size": len(data)}


packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w") as tar:
    tar.addfile(tarfile.TarInfo("model.safetensors"))
diff_id = f"sha256:{hashlib.sha256(packed.getvalue()).hexdigest()}"
config = {  # with Docker's order of keys, and no space
    "architecture": "amd64",
    "config": {"Cmd": ["/serve"], "Healthcheck": {"Test": ["CMD", "/healthy"]}},
    "created": "2024-01-01T00:00:00Z",
    "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "COPY model.safetensors /"}],
    "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": [diff_id]},
}
manifest = {
    "schemaVersion": 2,
    "mediaType": f"{OCI}.manifest.v1+json",
    "config": keep("config.v1+json", json.dumps(config, separators=(",", ":")).encode()),
    "layers": [keep("layer.v1.tar+gzip", gzip.compress(packed.getvalue(), mtime=0))],
}
index = {"schemaVersion": 2, "manifests": [keep("manifest.v1+json", json.dumps(manifest).encode())]}
pathlib.Path("given", "index.json").write_text(json.dumps(index))
pathlib.Path("given", "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
PYTHON
cat >look.py <<'PYTHON'
import json
import pathlib
import tarfile


def config(name):
    def read(descriptor):
        return pathlib.Path(name, "blobs", "sha256", descriptor["digest"][7:]).read_bytes()

    index = json.loads(pathlib.Path(name, "index.json").read_text())
    return read(json.loads(read(index["manifests"][0]))["config"])


given, back = config("given"), config("back")
with tarfile.open("image.tar") as archive:
    name = json.load(archive.extractfile("manifest.json"))[0]["Config"]
    print("archive:", "same config" if archive.extractfile(name).read() == given else "another config")
one, other = json.loads(given), json.loads(back)
same = "same" if one["rootfs"] == other["rootfs"] else "other"
lost = ", ".join(sorted(one["config"].keys() - other["config"].keys())) or "nothing"
print(f"back again: {'same' if given == back else 'another'} config, {same} diff_ids, lost: {lost}")
PYTHON
python3 make.py
skopeo --insecure-policy copy --quiet oci:given docker-archive:image.tar:example:1
skopeo --insecure-policy copy --quiet docker-archive:image.tar oci:back
python3 look.py | tee out
diff out - <<'SEEN'
archive: same config
back again: another config, same diff_ids, lost: Healthcheck
SEEN
