#!/usr/bin/env bash
# docker-registry 2.8.2 (distribution, Debian 12's package): asked for an OCI manifest or index with "Accept: */*",
# which is what curl, requests and a bare Python client send, it answers 404 MANIFEST_UNKNOWN, under its digest too.
# Of the tags list it ignores n: a client that reads page by page gets everything as the first.
#
# Guessed before: */* is any type, as in HTTP: 200. n=1 gives one tag and a link to the next.
# Seen 2026-11-27:
#   manifest by tag, Accept */*: 404
#   manifest by digest, Accept */*: 404
#   manifest by tag, Accept application/vnd.oci.image.manifest.v1+json: 200
#   tags/list?n=1: 2 tags, no link
# Why it matters: a check after the push, or a deployment's probe, reports the image that was just pushed as missing;
# 404 also tells a builder to push again.
# Remedy: always list the types, OCI's and Docker's, manifest and index.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill "$pid"; rm -rf "$folder"' EXIT
cd "$folder"
apt-get download docker-registry >/dev/null 2>&1 && dpkg -x docker-registry_2.8.2*.deb . || {
  echo "needs apt with Debian 12's docker-registry 2.8.2"
  exit 2
}
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >config.yml <<YAML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $folder/data}}
http: {addr: "127.0.0.1:$port"}
YAML
usr/bin/docker-registry serve config.yml >log 2>&1 &
pid=$!
cat >try.py <<'PYTHON'
import hashlib
import http.client
import json
import sys
import time

OCI = "application/vnd.oci.image"


def ask(method, path, body=None, **headers):
    server = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
    server.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = server.getresponse()
    return answer.status, answer.headers, answer.read()


def push(data):
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    _, headers, _ = ask("POST", "/v2/image/blobs/uploads/")
    location = headers["Location"]
    status, _, _ = ask("PUT", f"{location[location.index('/v2/') :]}&digest={digest}", data)
    assert status == 201, status
    return digest


for _ in range(300):
    try:
        ask("GET", "/v2/")
        break
    except OSError:
        time.sleep(0.2)

KIND = f"{OCI}.manifest.v1+json"
config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
described = {"mediaType": f"{OCI}.config.v1+json", "digest": push(config), "size": len(config)}
manifest = json.dumps({"schemaVersion": 2, "mediaType": KIND, "config": described, "layers": []}).encode()
for tag in ("2.0", "1.0"):
    status, headers, _ = ask("PUT", f"/v2/image/manifests/{tag}", manifest, Content_Type=KIND)
    assert status == 201, status
digest = headers["Docker-Content-Digest"]
for what, reference, accept in (("tag", "1.0", "*/*"), ("digest", digest, "*/*"), ("tag", "1.0", KIND)):
    print(f"manifest by {what}, Accept {accept}: {ask('GET', f'/v2/image/manifests/{reference}', Accept=accept)[0]}")
_, headers, body = ask("GET", "/v2/image/tags/list?n=1")
print(f"tags/list?n=1: {len(json.loads(body)['tags'])} tags, {'a link' if 'Link' in headers else 'no link'}")
PYTHON
python3 try.py "$port" | tee out
diff out - <<'SEEN'
manifest by tag, Accept */*: 404
manifest by digest, Accept */*: 404
manifest by tag, Accept application/vnd.oci.image.manifest.v1+json: 200
tags/list?n=1: 2 tags, no link
SEEN
