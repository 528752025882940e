#!/usr/bin/env bash
# huggingface_hub 2.4.0: snapshot_download(local_files_only=True, allow_patterns=...) returns the folder of a snapshot
# that is known, whether or not any file in it matches. hf_hub_download of one absent file raises.
#
# Guessed before: LocalEntryNotFoundError, as nothing that was asked for is there.
# Seen 2026-11-27 (Python 3.11), where only model_index.json had been downloaded:
#   snapshot_download, *.safetensors: a folder, weights in it: 0
#   hf_hub_download, unet/model.safetensors: LocalEntryNotFoundError
# Why it matters: an image build fetches the index first and the weights in a second step; the offline check after it
# passes although the second step never ran, and the worker finds out in front of its first user.
# Remedy: look for the files oneself, or ask for each by hf_hub_download.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet huggingface_hub==2.4.0
cat >"$folder/try.py" <<'PYTHON'
import os
import pathlib

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

# The cache as it lies after one file was downloaded.
cached = pathlib.Path(os.environ["HF_HOME"], "hub", "models--owner--model")
commit = "0123456789abcdef0123456789abcdef01234567"
for name, text in (("refs/main", commit), (f"snapshots/{commit}/model_index.json", "{}")):
    (cached / name).parent.mkdir(parents=True)
    (cached / name).write_text(text)

found = pathlib.Path(snapshot_download("owner/model", local_files_only=True, allow_patterns="*.safetensors"))
print(f"snapshot_download, *.safetensors: a folder, weights in it: {len(list(found.rglob('*.safetensors')))}")
try:
    print(hf_hub_download("owner/model", "unet/model.safetensors", local_files_only=True))
except LocalEntryNotFoundError:
    print("hf_hub_download, unet/model.safetensors: LocalEntryNotFoundError")
PYTHON
env -i PATH="$PATH" HOME="$folder" HF_HOME="$folder/hf" "$folder/venv/bin/python" "$folder/try.py" | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
snapshot_download, *.safetensors: a folder, weights in it: 0
hf_hub_download, unet/model.safetensors: LocalEntryNotFoundError
SEEN
