#!/usr/bin/env bash
# dynamicprompts 0.31.0: to its parser "#" begins a comment anywhere in a prompt, also where no brace or wildcard is
# in it: what follows is gone, without a warning. A "$", a "%" or one "__" is a parse error instead.
#
# Guessed before: text without braces comes out as it went in.
# Seen 2026-11-27 (Python 3.11):
#   'eyes of #ff0000, red coat, <lora:coat:0.8>' -> 'eyes of '
#   '(cat:1.3), [dog|cow], \\(x\\)' -> '(cat:1.3), [dog|cow], \\(x\\)'
#   'a sign, 50% off' -> ParseException
#   '<lora:add__detail:1>' -> ParseException
# Why it matters: a worker that offers variations runs every prompt through it. A colour or "number #1" cuts off the
# rest of the prompt, LoRAs included, and the picture is simply another one.
# Remedy: hand it only prompts that hold a brace or a wildcard; there is no escape for "#" (a backslash is no help).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dynamicprompts==0.31.0
cat >"$folder/try.py" <<'PYTHON'
from dynamicprompts.generators import RandomPromptGenerator

for prompt in (
    "eyes of #ff0000, red coat, <lora:coat:0.8>",
    r"eyes of \#ff0000, red coat",
    r"(cat:1.3), [dog|cow], \(x\)",
    "a sign, 50% off",
    "<lora:add__detail:1>",
):
    try:
        print(f"{prompt!r} -> {RandomPromptGenerator().generate(prompt, 1)[0]!r}")
    except Exception as error:
        print(f"{prompt!r} -> {type(error).__name__}")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
'eyes of #ff0000, red coat, <lora:coat:0.8>' -> 'eyes of '
'eyes of \\#ff0000, red coat' -> 'eyes of \\'
'(cat:1.3), [dog|cow], \\(x\\)' -> '(cat:1.3), [dog|cow], \\(x\\)'
'a sign, 50% off' -> ParseException
'<lora:add__detail:1>' -> ParseException
SEEN
