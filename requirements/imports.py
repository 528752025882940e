"""Imports all that a tree of sources imports, and fails where an environment lacks something of it.

    python imports.py FOLDER

Run with the environment's interpreter. FOLDER is the webui's, with its companions below `repositories/`: whatever
is imported there by name, in functions and behind `try` as well, has to be had, down to the names of
`from … import …`, but for `OPTIONAL`. So nothing that is left out of an image (`slim.py`, and the overrides of the
locks) is missed for the first time by a job.
"""

from __future__ import annotations

import ast
import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

OPTIONAL = {
    "albumentations": "spoils pictures for training",
    "fairscale": "BLIP's training; the webui puts an empty module in its place",
    "imwatermark": "generative-models' own demonstration",
    "intel_extension_for_pytorch": "another maker's card",
    "ngrok": "a tunnel to the webui, which stays behind the worker",
    "pytorch_fid": "measures what was trained",
    "rich": "prettier logs; the webui does without",
    "sdata": "training",
    "torch.utils.tensorboard": "logs of training",
    "torch_npu": "another maker's card",
    "torchdata": "training",
    "webdataset": "training",
}
"""By name, or by the beginning of one: why a worker never imports it."""

Wanted = tuple[str, str]
"""A module, and what is imported from it; empty for the module itself."""


def find_imports(folder: Path) -> dict[Wanted, str]:
    """What the sources below a folder import that is not theirs, each with the file that was seen first."""
    own = set(_own_names(folder))
    found: dict[Wanted, str] = {}
    for path in sorted(folder.rglob("*.py")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in their strings
            tree = ast.parse(path.read_bytes())
        for wanted in _imports_of(tree):
            if wanted[0].split(".")[0] not in own:
                found.setdefault(wanted, str(path.relative_to(folder)))
    return found


def _own_names(folder: Path) -> Iterator[str]:
    """Top-level names of the sources' own: their roots are on the path when the webui runs."""
    roots = [folder, *folder.glob("repositories/*"), *folder.glob("extensions-builtin/*")]
    for root in roots:
        for path in root.iterdir():
            if path.suffix == ".py" or (path.is_dir() and next(path.rglob("*.py"), None)):
                yield path.stem


def _imports_of(tree: ast.AST) -> Iterator[Wanted]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, alias.name.replace("*", "")) for alias in node.names)


def is_optional(name: str) -> bool:
    """Whether a dotted name is one of `OPTIONAL`, or below it."""
    return any(name == each or name.startswith(f"{each}.") for each in OPTIONAL)


def find_absent(wanted: Sequence[Wanted]) -> dict[str, str]:
    """By dotted name, why it cannot be imported; what is optional is not tried."""
    absent: dict[str, str] = {}
    for module, name in wanted:
        full = f"{module}.{name}" if name else module
        if is_optional(full):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = importlib.import_module(module)
                if name and not hasattr(found, name):
                    importlib.import_module(full)
        except Exception as error:  # noqa: BLE001  # whatever it is, the module cannot be had
            absent[full] = f"{type(error).__name__}: {error}"
    return absent


def main(arguments: Sequence[str]) -> int:
    folder = Path(arguments[0])
    wanted = find_imports(folder)
    absent = find_absent(sorted(wanted))
    seen_in = {
        f"{module}.{name}" if name else module: path for (module, name), path in wanted.items()
    }
    for name, reason in sorted(absent.items()):
        print(f"{name}, which {seen_in[name]} imports: {reason}", file=sys.stderr)
    modules = len({module for module, _ in wanted})
    print(f"{len(wanted)} names of {modules} modules are imported, {len(absent)} of them in vain")
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
