"""Which LoRAs took part in a job's drawing, counted inside the webui; on with every choice of tricks.

The webui (v1.9.3) draws on without a word where it cannot read a LoRA, where its names match no layer or
where a layer fails, and lists it in "Lora hashes" all the same. Here every layer of a network that is
loaded tells when its change was made (`calc_updown`) and when making it failed, and each activation begins
a pass: one for each batch and one for the second pass of hires fix. A layer is asked only when the set of
networks changes, so a drawing costs nothing; what is counted of a file is kept, since a cached conditioning
leaves the text encoder's layers alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from runtime.boot.hooks import after_import

_REASON_CHARS = 300
_KEPT_FILES = 64


class _File:
    """What is known of one LoRA's file: its layers, and what became of each."""

    def __init__(self, layers: int, matched: frozenset[str]) -> None:
        self.layers = layers
        self.matched = matched
        self.applied: dict[str, bool] = {}
        """Layer → whether its last change was made."""
        self.last = ""
        self.has_effect = False
        self.reason = ""

    def failed(self, layer: str, reason: str) -> None:
        self.applied[layer] = False
        self.reason = self.reason or " ".join(reason.split())[:_REASON_CHARS]


class Passes:
    """The passes of the running job, and the files that they used."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, float], _File] = {}
        self._broken: dict[str, str] = {}
        self._asked: list[str] = []
        self._loaded: Sequence[Any] = ()
        self._entries: dict[str, dict[str, Any]] = {}
        self._given_bias: list[Any] = []

    def begin(self) -> None:
        """A job begins."""
        self._asked, self._loaded, self._entries = [], (), {}
        self._take_back()

    def activate(self, names: Sequence[str], loaded: Sequence[Any]) -> None:
        """A pass begins with these networks; the one before it is over."""
        self._close()
        self._take_back()
        self._asked, self._loaded = list(names), list(loaded)

    def _take_back(self) -> None:
        """A bias that a layer had not. The webui takes it for the layer's own, and never takes it back."""
        for layer in self._given_bias:
            layer.bias = layer.network_bias_backup = None
            if getattr(layer, "network_weights_backup", None) is not None:
                # No set of networks: so that the next drawing makes the layer anew.
                layer.network_current_names = ("",)
        self._given_bias.clear()

    def refuse(self, names: Sequence[str], reason: str) -> None:
        """These were to be activated, and none of them was."""
        for name in names:
            self._add(name, {"layers": 0, "matched": 0, "applied": 0, "reason": reason})

    def end(self) -> list[dict[str, Any]]:
        """A job ends; of each network that it asked for, the pass with the least of it."""
        self._close()
        return [{"name": name, **entry} for name, entry in self._entries.items()]

    def _close(self) -> None:
        loaded = {net.mentioned_name or net.name: net for net in self._loaded}
        for name in self._asked:
            self._add(name, self._describe(name, loaded.get(name)))
        self._asked = []

    def _add(self, name: str, entry: dict[str, Any]) -> None:
        known = self._entries.setdefault(name, entry)
        if entry["applied"] < known["applied"]:
            self._entries[name] = entry

    def _describe(self, name: str, net: Any) -> dict[str, Any]:
        file = net and self._files.get((net.name, net.mtime))
        if not file:
            reason = self._broken.get(name) or "the webui has no such file"
            return {"layers": 0, "matched": 0, "applied": 0, "reason": reason}
        embeddings = [each for each in net.bundle_embeddings.values() if each.loaded]
        weak = not (net.te_multiplier or net.unet_multiplier)
        return {
            "layers": file.layers + len(net.bundle_embeddings),
            "matched": len(file.matched) + len(embeddings),
            "applied": sum(file.applied.values()) + len(embeddings),
            "failed": len(file.applied) - sum(file.applied.values()),
            "has_effect": file.has_effect or bool(embeddings) or weak,
            "reason": file.reason,
        }

    def load(self, upstream: Callable[..., Any], name: str, on_disk: Any) -> Any:
        """`networks.load_network`, with eyes on every layer."""
        try:
            net = upstream(name, on_disk)
        except Exception as error:
            self._broken[name] = f"{type(error).__name__}: {error}"[:_REASON_CHARS]
            raise
        self._broken.pop(name, None)
        file = _File(_count_layers(on_disk.filename, len(net.modules)), frozenset(net.modules))
        known = self._files.pop((net.name, net.mtime), file)
        if known.matched == file.matched:
            # Read again for the same kind of model: a text encoder that a cached conditioning leaves alone
            # keeps its counts.
            file = known
        self._files[net.name, net.mtime] = file
        while len(self._files) > _KEPT_FILES:
            del self._files[next(iter(self._files))]
        for layer, module in net.modules.items():
            _watch(file, layer, module, self._given_bias)
        return net

    def fail(self, name: str) -> None:
        """Called where the webui counts an error, in the handler of the exception if there is one."""
        error = sys.exc_info()[1]
        for net in self._loaded:
            if net.name == name and (file := self._files.get((net.name, net.mtime))):
                file.failed(file.last, str(error or "no operation of the webui fits a layer"))


def _watch(file: _File, layer: str, module: Any, given_bias: list[Any]) -> None:
    upstream, forward = module.calc_updown, module.forward

    def calc_updown(target: Any) -> Any:
        file.last = layer
        try:
            change, bias = upstream(target)
        except RuntimeError:
            raise
        except Exception as error:
            # The webui counts RuntimeErrors alone; another kind would end the job as if it could not draw.
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        own = module.sd_module
        if bias is not None and getattr(own, "bias", "none") is None:
            # Of the layer's own type: the webui would fail, with the layer half changed.
            bias = bias.to(target.dtype)
            given_bias.append(own)
        file.applied[layer] = True
        if not file.has_effect:
            file.has_effect = bool(change.any() or (bias is not None and bias.any()))
        return change, bias

    def functional(x: Any, y: Any) -> Any:
        file.applied[layer] = file.has_effect = True
        return forward(x, y)

    module.calc_updown, module.forward = calc_updown, functional


def _count_layers(filename: str, matched: int) -> int:
    """Layers that the file names, by the names in its header; `matched` where it has none."""
    if not filename.endswith(".safetensors"):
        return matched
    with open(filename, "rb") as file:  # noqa: PTH123  # pathlib costs 4 ms
        names = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    layers = {name.partition(".")[0] for name in names if name != "__metadata__"}
    return max(len(layers - {"bundle_emb"}), matched)


class _Errors(dict[str, int]):
    """Stands for `ExtraNetworkLora.errors`, the webui's own count."""

    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self._passes = passes

    def __setitem__(self, name: str, count: int) -> None:
        super().__setitem__(name, count)
        self._passes.fail(name)


NETWORKS = ("networks", "demo.webui.networks")
"""The extension's module, and the stand-in's of the same form, with which tests drive these hooks."""


def install() -> Passes:
    """Watches the extension `Lora`, once it is imported; without it no network is ever asked for."""
    passes = Passes()
    for name in NETWORKS:
        after_import(name, lambda module: _watch_networks(module, passes), trick="applied")
    for name in ("extra_networks_lora", NETWORKS[1]):
        after_import(name, lambda module: _watch_activation(module, passes), trick="applied")
    return passes


def _watch_networks(networks: Any, passes: Passes) -> None:
    load_network, load_networks = networks.load_network, networks.load_networks

    def load(name: str, network_on_disk: Any) -> Any:
        return passes.load(load_network, name, network_on_disk)

    def load_all(names: Sequence[str], *args: Any, **kwargs: Any) -> None:
        passes.activate((), ())
        load_networks(names, *args, **kwargs)
        passes.activate(names, networks.loaded_networks)

    networks.load_network, networks.load_networks = load, load_all


def _watch_activation(extra_networks_lora: Any, passes: Passes) -> None:
    kind = extra_networks_lora.ExtraNetworkLora
    init, activate = kind.__init__, kind.activate

    def initialise(self: Any) -> None:
        init(self)
        self.errors = _Errors(passes)

    def watched(self: Any, p: Any, params_list: Sequence[Any]) -> None:
        try:
            activate(self, p, params_list)
        except Exception as error:
            names = [each.positional[0] for each in params_list if each.positional]
            passes.refuse(names, f"{type(error).__name__}: {error}"[:_REASON_CHARS])
            raise

    kind.__init__, kind.activate = initialise, watched
