#!/usr/bin/env bash
# docker 7.2.0 (the SDK for Python) and buildah 1.28.2 (Debian 12): with the .dockerignore "*" and then
# "!**/*.safetensors", both send only the weights that lie at the top of the context, and leave out all that lie in
# folders, without a word. BuildKit (seen by hand: Docker Engine 26.1.5) sends those in folders too.
#
# Guessed before: all three read the file alike, "**" matching any number of folders.
# Seen 2026-11-27 (Python 3.11):
#   docker SDK: Dockerfile top.safetensors
#   buildah: top.safetensors
# (BuildKit: models/near.safetensors models/sub/deep.safetensors top.safetensors)
# "!models/**/*.safetensors" goes one folder down and no further.
# Why it matters: an ignore file that lets through nothing but weights is what keeps caches and keys out of an image.
# Moved from `docker build` to a build by the SDK or by buildah, it builds an image without the weights.
# Remedy: let the whole folder through, "!models", and exclude again what is not wanted, "**/*.ckpt".
set -euo pipefail
buildah --version 2>/dev/null | grep -q '^buildah version 1\.28\.2 ' || { echo "needs buildah 1.28.2 (Debian 12: apt-get install buildah), as root"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet docker==7.2.0
mkdir -p context/models/sub
touch context/top.safetensors context/models/{near.safetensors,other.ckpt} context/models/sub/deep.safetensors
printf 'FROM scratch\nCOPY . /all/\n' >context/Dockerfile
cat >sdk.py <<'PYTHON'
import pathlib
import sys

from docker.utils.build import exclude_paths  # what images.build asks which files to send

patterns = pathlib.Path("context/.dockerignore").read_text().split()
found = (name for name in exclude_paths("context", patterns) if pathlib.Path("context", name).is_file())
print(sys.argv[1], *sorted(name for name in found if name != ".dockerignore"))
PYTHON
build() {
  env -u REGISTRY_AUTH_FILE -u DOCKER_CONFIG buildah --root "$folder/root" --runroot "$folder/run" --storage-driver vfs "$@"
}
try() { # NAME, the lines after "*"
  printf '%s\n' '*' "${@:2}" >context/.dockerignore
  venv/bin/python sdk.py "$1docker SDK:"
  build bud --quiet --tag tried context >/dev/null
  rm -rf pushed
  build push --quiet tried "dir:$folder/pushed"
  layer=$(python3 -c 'import json; print(json.load(open("pushed/manifest.json"))["layers"][0]["digest"][7:])')
  echo "$1buildah:" $(tar --list --file "pushed/$layer" | sed -n 's|^all/\(.*[^/]\)$|\1|p' | sort)
}
{
  try "" '!**/*.safetensors'
  try "folder named, " '!models/**/*.safetensors'
  try "remedy, " '!models' '**/*.ckpt'
} | tee out
diff out - <<'SEEN'
docker SDK: Dockerfile top.safetensors
buildah: top.safetensors
folder named, docker SDK: Dockerfile models/near.safetensors
folder named, buildah: models/near.safetensors
remedy, docker SDK: Dockerfile models/near.safetensors models/sub/deep.safetensors
remedy, buildah: models/near.safetensors models/sub/deep.safetensors
SEEN
