#!/usr/bin/env bash
# packageurl-python 0.17.6: url2purl.get_purl takes the path of a link for a web form's text. A "+" in it, which in a
# path is a plus, becomes a space in the name and in the version of the package URL; download_url keeps it.
#
# Guessed before: the plus stays one, written %2B as the specification of package URLs asks.
# Seen 2026-11-27 (Python 3.11):
#   https://example.org/whl/torch-2.1.2+cu121-cp310-cp310-linux_x86_64.whl
#     name torch-2.1.2 cu121-cp310-cp310-linux_x86_64.whl
#   https://github.com/owner/kernels/archive/refs/tags/v1.0+cu121.tar.gz
#     version v1.0 cu121, archive https://github.com/owner/kernels/archive/v1.0 cu121.tar.gz
# (the second archive is purl2url's way back from the package URL)
# Why it matters: wheels and releases built for a CUDA version carry it behind a plus. Their lines in a bill of
# materials name a release that does not exist, which no advisory and no download matches.
# Remedy: write the plus as %2B before the link is handed over (then it stays).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet packageurl-python==0.17.6
cat >"$folder/try.py" <<'PYTHON'
from packageurl.contrib import purl2url, url2purl

wheel = "https://example.org/whl/torch-2.1.2+cu121-cp310-cp310-linux_x86_64.whl"
print(wheel)
print(f"  name {url2purl.get_purl(wheel).name}")
release = "https://github.com/owner/kernels/archive/refs/tags/v1.0+cu121.tar.gz"
found = url2purl.get_purl(release)
print(release)
print(f"  version {found.version}, archive {purl2url.get_download_url(found.to_string())}")
assert url2purl.get_purl(wheel.replace("+", "%2B")).name == wheel.rsplit("/", 1)[1]
PYTHON
"$folder/venv/bin/python" "$folder/try.py" | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
https://example.org/whl/torch-2.1.2+cu121-cp310-cp310-linux_x86_64.whl
  name torch-2.1.2 cu121-cp310-cp310-linux_x86_64.whl
https://github.com/owner/kernels/archive/refs/tags/v1.0+cu121.tar.gz
  version v1.0 cu121, archive https://github.com/owner/kernels/archive/v1.0 cu121.tar.gz
SEEN
