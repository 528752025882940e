"""A small extension of the webui in a git repository, for the demo's webui and for the real one alike."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = """
import gradio as gr
from modules import scripts
from tint_words import REFUSED


class Tint(scripts.Script):
    def title(self):
        return "Tint"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [
            gr.Checkbox(label="Enable", value=False),
            gr.Textbox(label="Colour", value="red"),
            gr.State(value=None),
        ]

    def postprocess_image(self, p, pp, enabled, colour, unit):
        if not enabled:
            return
        from PIL import Image

        if colour == "purple":
            raise ValueError(REFUSED)
        pp.image = Image.blend(pp.image, Image.new("RGB", pp.image.size, colour), 0.5)

    def postprocess(self, p, processed, enabled, colour, unit):
        if enabled and unit and unit.get("image"):
            import base64, io
            from PIL import Image

            processed.images.append(Image.open(io.BytesIO(base64.b64decode(unit["image"]))))
"""
FILES = {
    "scripts/tint.py": SCRIPT,
    "tint_words.py": 'REFUSED = "purple is not to be had"\n',
    "LICENSE": "Permission is hereby granted, free of charge, to any person obtaining a copy\n",
    "README.md": "Tints pictures.\n",
    "bin/run.sh": "#!/bin/sh\n",
}


def git(folder: Path, *arguments: str) -> str:
    """Runs git as nobody in particular, at no time in particular."""
    who = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "a"), ("EMAIL", "a@example.com"), ("DATE", "1700000000 +0000"))
    }
    environment = {
        **os.environ,
        **who,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    ended = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def make_repository(folder: Path, files: dict[str, str | bytes] | None = None) -> str:
    """A repository with one more commit of these files. Returns the commit."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet", "--initial-branch", "main")
    for name, content in (FILES if files is None else files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o755 if name.endswith(".sh") else 0o644)
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "files")
    return git(folder, "rev-parse", "HEAD")
