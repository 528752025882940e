#!/usr/bin/env bash
# docker 7.2.0 (the SDK for Python): parse_repository_tag cuts a reference that has both a tag and a digest at the
# "@" alone. The tag stays in what it calls the repository.
#
# Guessed before: the tag is dropped, ("name", "sha256:...").
# Seen 2026-11-27 (Python 3.11):
#   example.org:5000/owner/name:1.0 -> example.org:5000/owner/name and 1.0
#   example.org:5000/owner/name@sha256:aa -> example.org:5000/owner/name and sha256:aa
#   example.org:5000/owner/name:1.0@sha256:aa -> example.org:5000/owner/name:1.0 and sha256:aa
# (each aa stands for 64 hexadecimal digits)
# Why it matters: an image is pinned by tag and digest so that people can read it; who builds another reference, a
# registry's address or a purl from the first half gets one with two tags or none that exists.
# Remedy: cut a ":" after the last "/" off the repository oneself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet docker==7.2.0
cat >"$folder/try.py" <<'PYTHON'
from docker.utils import parse_repository_tag

digest = "sha256:" + "a" * 64
for end in (":1.0", f"@{digest}", f":1.0@{digest}"):
    reference = f"example.org:5000/owner/name{end}"
    repository, tag = parse_repository_tag(reference)
    print(f"{reference} -> {repository} and {tag}".replace("a" * 64, "aa"))
PYTHON
env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" "$folder/try.py" | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
example.org:5000/owner/name:1.0 -> example.org:5000/owner/name and 1.0
example.org:5000/owner/name@sha256:aa -> example.org:5000/owner/name and sha256:aa
example.org:5000/owner/name:1.0@sha256:aa -> example.org:5000/owner/name:1.0 and sha256:aa
SEEN
