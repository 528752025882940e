#!/usr/bin/env bash
# lib4sbom 0.10.4: of a CycloneDX document's components it keeps one for each pair of name and version, the last, with
# its hash and package URL. bom-refs, which tell the two apart, are not looked at; the relationships still name both.
#
# Guessed before: both are kept, as their bom-refs, hashes and package URLs differ.
# Seen 2026-11-27 (Python 3.11):
#   in the document: unet aaaaaaaa, vae bbbbbbbb
#   parsed: vae bbbbbbbb
#   relationships to: unet, vae
# Why it matters: a model in the layout of diffusers has a diffusion_pytorch_model.safetensors in unet and one in vae.
# A converter or checker built on this library lists one of them, so the UNet is in no report.
# Remedy: the path in the component's name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet lib4sbom==0.10.4
cat >"$folder/try.py" <<'PYTHON'
import json
import sys

from lib4sbom.parser import SBOMParser

NAME = "diffusion_pytorch_model.safetensors"


def component(part, letter):
    return {
        "type": "file",
        "bom-ref": part,
        "name": NAME,
        "version": "1",
        "hashes": [{"alg": "SHA-256", "content": letter * 64}],
        "purl": f"pkg:huggingface/owner/model@0123abc#{part}/{NAME}",
    }


image = {"type": "container", "bom-ref": "image", "name": "image", "version": "1"}
files = [component("unet", "a"), component("vae", "b")]
document = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "serialNumber": "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79",
    "version": 1,
    "metadata": {"component": image},
    "components": files,
    "dependencies": [{"ref": "image", "dependsOn": ["unet", "vae"]}],
}
with open(sys.argv[1], "w") as file:
    json.dump(document, file)
print("in the document:", ", ".join(f"{each['bom-ref']} {each['hashes'][0]['content'][:8]}" for each in files))
parser = SBOMParser()
parser.parse_file(sys.argv[1])
print("parsed:", ", ".join(f"{each['bom-ref']} {each['checksum'][0][1][:8]}" for each in parser.get_packages()))
print("relationships to:", ", ".join(each["target_id"] for each in parser.get_relationships()))
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/model.cdx.json" | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
in the document: unet aaaaaaaa, vae bbbbbbbb
parsed: vae bbbbbbbb
relationships to: unet, vae
SEEN
