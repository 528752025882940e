#!/usr/bin/env bash
# runpod 1.12.0: rp_validator's validate hands out a default itself, not a copy. What one job's handler appends to a
# list that came from the schema's default is in the next job's input, for as long as the worker lives.
#
# Guessed before: it copies.
# Seen 2026-11-27 (Python 3.11):
#   first job: []
#   second job: ['first']
# Why it matters: a field such as loras or images is naturally a list that is empty by default, and a handler adds
# to it. A test that starts a new worker for each job never sees it.
# Remedy: copy.deepcopy of what validate returns, before the handler changes it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-deps runpod==1.12.0
cat >"$folder/try.py" <<'PYTHON'
import importlib.util
import sys

# The module alone, by its file: it needs nothing but Python, the package's start imports all that it depends on.
found = next(f for p in sys.path for f in __import__("glob").glob(f"{p}/runpod/serverless/utils/rp_validator.py"))
spec = importlib.util.spec_from_file_location("rp_validator", found)
rp_validator = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rp_validator)

schema = {"prompt": {"type": str, "required": True}, "loras": {"type": list, "required": False, "default": []}}
for name in ("first", "second"):
    given = rp_validator.validate({"prompt": "a lighthouse"}, schema)["validated_input"]
    print(f"{name} job: {given['loras']}")
    given["loras"].append(name)
PYTHON
env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" "$folder/try.py" | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
first job: []
second job: ['first']
SEEN
