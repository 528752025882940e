"""The base contract: the labels by which a base image says how its webui is started.

`bake` and `runtime` know nothing else about a base, so another webui, or another version of it, is
another Dockerfile. docs/architecture.md lists the labels with their meaning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from bake.errors import BuildError
from runtime.worker import CONTRACT_VERSION, Webui

LABEL_PREFIX = "bakery."
_TEXT = {
    "webui.name": "name",
    "webui.version": "version",
    "webui.revision": "revision",
    "webui.directory": "directory",
    "webui.python": "python",
    "webui.script": "script",
    "path.checkpoint": "checkpoint_dir",
    "path.vae": "vae_dir",
    "path.lora": "lora_dir",
    "path.config": "config_file",
}
_OPTIONAL = {"path.models": "models_dir", "path.embedding": "embedding_dir"}
"""Labels that older bases have not: what needs one is refused by name (`bake.steps.worker`)."""
_LISTS = {
    "webui.args": "args",
    "webui.args.cuda": "args_cuda",
    "webui.args.cpu": "args_cpu",
    "path.harvest": "harvest_paths",
}


def read_contract(labels: Mapping[str, str], *, where: str) -> Webui:
    """Parses a base image's labels.

    Args:
        labels: The image's labels as Docker reports them.
        where: The image's reference, for messages.

    Raises:
        BuildError: a label is missing or not of its form; all such labels are named at once.
    """
    wrong: list[str] = []
    values: dict[str, object] = {}
    found = labels.get(LABEL_PREFIX + "contract")
    if found != str(CONTRACT_VERSION):
        wrong.append(f"{LABEL_PREFIX}contract is {found!r}, this bake speaks {CONTRACT_VERSION}")
    for label, key in _TEXT.items():
        text = labels.get(LABEL_PREFIX + label, "")
        if not text:
            wrong.append(f"{LABEL_PREFIX}{label} is missing")
        values[key] = text
    for label, key in _OPTIONAL.items():
        values[key] = labels.get(LABEL_PREFIX + label, "")
    for label, key in _LISTS.items():
        try:
            items = json.loads(labels.get(LABEL_PREFIX + label, "[]"))
        except ValueError:
            items = None
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            wrong.append(f"{LABEL_PREFIX}{label} is not a JSON list of strings")
            items = []
        values[key] = tuple(items)
    port = labels.get(LABEL_PREFIX + "webui.port", "")
    if not port.isdecimal():
        wrong.append(f"{LABEL_PREFIX}webui.port is {port!r}, not a port number")
    if wrong:
        raise BuildError(
            "the base image does not keep the base contract: " + "; ".join(wrong),
            where=where,
            hint="docs/architecture.md#the-base-contract lists the labels that a base image needs",
        )
    return Webui(port=int(port), **values)  # type: ignore[arg-type]
