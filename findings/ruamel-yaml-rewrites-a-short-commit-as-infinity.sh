#!/usr/bin/env bash
# ruamel.yaml 0.19.1: a round trip of an untouched document writes ".inf" where an unquoted short commit stood that
# reads as a number out of range, such as 12e4567. Other numbers keep their writing (1e3, 0o17, 0123456, 1.10).
#
# Guessed before: a scalar that nobody touched is written as it was read.
# Seen 2026-11-27 (Python 3.11):
#   commit: 12e4567 -> commit: .inf
#   commit: 0123456 -> commit: 0123456
#   commit: 123e456 -> commit: .inf
#   version: 1.10 -> version: 1.10
# Why it matters: a bot that raises one pin in a manifest destroys another, which cannot be had back from the file.
# About one commit in a hundred, cut to seven digits, is such a number.
# Remedy: quotes around commits, and preserve_quotes = True, so that the next round trip leaves them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ruamel.yaml==0.19.1
cat >"$folder/try.py" <<'PYTHON'
import io

from ruamel.yaml import YAML

yaml = YAML()
yaml.preserve_quotes = True
for line in ("commit: 12e4567", "commit: 0123456", "commit: 123e456", "version: 1.10", 'commit: "12e4567"'):
    written = io.StringIO()
    yaml.dump(yaml.load(line), written)
    print(f"{line} -> {written.getvalue().strip()}")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
commit: 12e4567 -> commit: .inf
commit: 0123456 -> commit: 0123456
commit: 123e456 -> commit: .inf
version: 1.10 -> version: 1.10
commit: "12e4567" -> commit: "12e4567"
SEEN
