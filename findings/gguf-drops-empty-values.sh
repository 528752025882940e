#!/usr/bin/env bash
# gguf 0.19.0 (of llama.cpp): GGUFWriter takes an empty string or an empty list as a key's value and leaves the key out,
# without a word, though the format knows both. A list of lists is written, and its contents() is one flat list.
#
# Guessed before: an empty string is kept, an empty list refused, and lists of lists come back as they went in.
# Seen 2026-11-27 (Python 3.11):
#   general.name 'model' -> 'model'
#   general.license '' -> absent
#   general.tags [] -> absent
#   general.tags ['', 'a'] -> ['', 'a']
#   model.sizes [[1, 2], [3]] -> [1, 2, 3]
# Why it matters: a converter that carries a checkpoint's metadata over loses what was left blank on purpose, the
# licence for one, and a reader that counts on each key that was written ends in a KeyError.
# Remedy: write no empty values, and read each key as one that may be absent.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gguf==0.19.0
cat >"$folder/try.py" <<'PYTHON'
import sys

from gguf import GGUFReader, GGUFWriter

for key, value in (
    ("general.name", "model"),
    ("general.license", ""),
    ("general.tags", []),
    ("general.tags", ["", "a"]),
    ("model.sizes", [[1, 2], [3]]),
):
    writer = GGUFWriter(sys.argv[1], "model")
    (writer.add_string if isinstance(value, str) else writer.add_array)(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    field = GGUFReader(sys.argv[1]).get_field(key)
    print(f"{key} {value!r} -> {'absent' if field is None else repr(field.contents())}")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/model.gguf" | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
general.name 'model' -> 'model'
general.license '' -> absent
general.tags [] -> absent
general.tags ['', 'a'] -> ['', 'a']
model.sizes [[1, 2], [3]] -> [1, 2, 3]
SEEN
