#!/usr/bin/env bash
# sd-parsers 0.6: of a picture by the AUTOMATIC1111 webui it cuts the line of settings at each comma, also within the
# quotes that the webui puts around a value with commas. A field's name within a quoted value replaces the real one:
# the seed and the steps that it tells can be those of a text that somebody typed.
#
# Guessed before: the quotes hold a value together, as in the webui's own parser.
# Seen 2026-11-27 (Python 3.11), of a picture whose seed is 123 and whose steps are 20:
#   seed 5", steps 3"
#   Lora hashes absent; b: 34cd"
# Why it matters: who rebuilds a request from a picture, or lists which LoRAs drew it, gets another seed and no
# hashes. "Lora hashes" is quoted as soon as one LoRA was used; the prompts' templates of an extension are, too.
# Remedy: read the text of "parameters" oneself, with quoted values in one piece.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sd-parsers==0.6 pillow==12.0.0
cat >"$folder/try.py" <<'PYTHON'
import io

from PIL import Image, PngImagePlugin
from sd_parsers import ParserManager

settings = (
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 123, Size: 512x512, Model hash: abcdef1234, Model: dream, "
    'Lora hashes: "a: 12ab, b: 34cd", Template: "a lighthouse, Seed: 5", Negative Template: "blurry, Steps: 3", Version: v1.9.3'
)
info = PngImagePlugin.PngInfo()
info.add_text("parameters", f"a lighthouse\nNegative prompt: blurry\n{settings}")
picture = io.BytesIO()
Image.new("RGB", (8, 8)).save(picture, "png", pnginfo=info)
picture.seek(0)
with Image.open(picture) as image:
    found = ParserManager().parse(image)
(sampler,) = found.samplers
print(f"seed {sampler.parameters['seed']}, steps {sampler.parameters['steps']}")
print(f"Lora hashes {found.metadata.get('Lora hashes', 'absent')}; b: {found.metadata.get('b', 'absent')}")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
seed 5", steps 3"
Lora hashes absent; b: 34cd"
SEEN
