"""What the webui's sources import has to be had in the base's environment, or be known to be for nobody here."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bake import assets

SCRIPT = assets.LOCKS / "imports.py"
IMPORTS: dict[str, Any] = runpy.run_path(str(SCRIPT))


def write(folder: Path, sources: dict[str, str]) -> Path:
    for name, text in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def run_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(SCRIPT), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_import_is_found_wherever_it_stands_and_the_sources_own_are_left_aside(
    tmp_path: Path,
) -> None:
    folder = write(
        tmp_path,
        {
            "webui.py": "import json as j, os.path\nfrom modules import shared\nimport launch\n",
            "launch.py": "from . import x\nfrom .y import z\n",
            "modules/shared.py": "def f():\n    try:\n        from email.mime import text\n    except ImportError: pass\n",
            "repositories/k-diffusion/k_diffusion/a.py": "from collections import *\nimport ldm.b\n",
            "repositories/other/ldm/b.py": 'x = "\\\\d"\nimport k_diffusion.a, zlib\n',
            "extensions-builtin/Lora/network.py": "import networks, lora_patches\n",
            "extensions-builtin/Lora/networks.py": "",
            "extensions-builtin/Lora/lora_patches.py": "",
        },
    )
    assert IMPORTS["find_imports"](folder) == {
        ("json", ""): "webui.py",
        ("os.path", ""): "webui.py",
        ("email.mime", "text"): "modules/shared.py",
        ("collections", ""): "repositories/k-diffusion/k_diffusion/a.py",
        ("zlib", ""): "repositories/other/ldm/b.py",
    }
    done = run_imports(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "5 names of 5 modules are imported, 0 of them in vain\n"


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("import no_such_thing.at_all", "no_such_thing.at_all"),
        ("from json import no_such_name", "json.no_such_name"),
        ("def f():\n    from xml.no_such import y", "xml.no_such.y"),
        ("try:\n    import no_such_thing\nexcept ImportError: pass", "no_such_thing"),
    ],
)
def test_what_cannot_be_imported_is_named_with_its_file(
    tmp_path: Path, source: str, named: str
) -> None:
    done = run_imports(write(tmp_path, {"a/b.py": source, "c.py": "import csv"}))
    assert done.returncode == 1
    assert done.stderr.startswith(f"{named}, which a/b.py imports: ")
    assert done.stdout == "2 names of 2 modules are imported, 1 of them in vain\n"


def test_a_module_that_breaks_is_named_too(tmp_path: Path) -> None:
    """A library that was left out shows as an OSError, or as whatever the package makes of it."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/broken.py").write_text("raise OSError('libx.so: not found')")
    folder = write(tmp_path / "sources", {"a.py": "import broken"})
    sys.path.insert(0, str(tmp_path / "packages"))
    try:
        absent = IMPORTS["find_absent"](sorted(IMPORTS["find_imports"](folder)))
    finally:
        sys.path.remove(str(tmp_path / "packages"))
    assert absent == {"broken": "OSError: libx.so: not found"}


def test_what_is_optional_is_not_tried_with_all_below_it(tmp_path: Path) -> None:
    sources = {
        "a.py": "import rich\nfrom torch.utils.tensorboard import SummaryWriter\nimport richer"
    }
    done = run_imports(write(tmp_path, sources))
    assert done.stderr.startswith("richer, which a.py imports: ModuleNotFoundError")
    assert done.stdout == "3 names of 3 modules are imported, 1 of them in vain\n"
