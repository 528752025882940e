#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6: safetensors.numpy's save and save_file write an array's memory as it lies, under
# the shape that the array has. Of a transposed array, or one in Fortran order, the file holds other numbers at other
# places; no error, no warning. (The same call for torch refuses a tensor that is not contiguous.)
#
# Guessed before: it is written right, or refused.
# Seen 2026-11-27 (Python 3.11):
#   given: [[1, 4], [2, 5], [3, 6]]
#   saved: [[1, 2], [3, 4], [5, 6]]
#   saved after ascontiguousarray: [[1, 4], [2, 5], [3, 6]]
# Why it matters: whoever converts weights from a format that keeps a matrix the other way round writes `.T`, for some
# tensors, and gets a LoRA or a checkpoint of the right names, types, shapes and size that draws noise.
# Reported: safetensors/safetensors issue 825, open; 0.7.0 wrote it right. Remedy: numpy.ascontiguousarray for each
# array before it is saved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
cat >"$folder/try.py" <<'PYTHON'
import numpy
from safetensors.numpy import load, save

given = numpy.array([[1, 2, 3], [4, 5, 6]], dtype=numpy.float32).T
for what, array in (
    ("given", given),
    ("saved", load(save({"lora_up.weight": given}))["lora_up.weight"]),
    ("saved after ascontiguousarray", load(save({"weight": numpy.ascontiguousarray(given)}))["weight"]),
):
    print(f"{what}: {array.astype(int).tolist()}")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
given: [[1, 4], [2, 5], [3, 6]]
saved: [[1, 2], [3, 4], [5, 6]]
saved after ascontiguousarray: [[1, 4], [2, 5], [3, 6]]
SEEN
