"""LoRAs in use, as the webui's extension `Lora` keeps them (v1.9.3): by the same names, with the same faults.

What is loaded stays so until the next activation; a file that cannot be read, names that fit no module and
changes that fail are passed over; and whatever could be loaded is listed. `runtime.boot.applied` watches the
webui's modules and these by the same code, so that tests drive the very hooks of a worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from demo.webui.catalogue import Catalogue, Lora
from demo.webui.network import Array, Network
from demo.webui.safetensors import read_tensors


@dataclass(kw_only=True)
class Module:
    """What a LoRA has for one matrix of the model."""

    up: Array
    down: Array
    scale: float
    net: Net
    sd_module: Any = field(default_factory=lambda: SimpleNamespace(bias="never changed"))

    def calc_updown(self, target: Array) -> tuple[Array, None]:
        """What is added to the matrix, and to its bias."""
        change = np.float32(self.scale * self.net.unet_multiplier) * (self.up @ self.down)
        if change.shape != target.shape:
            raise RuntimeError(f"shape {change.shape} does not fit {target.shape}")
        return change, None

    def forward(self, _x: Array, y: Array) -> Array:
        return y


@dataclass(kw_only=True)
class Net:
    """A LoRA in use."""

    name: str
    on_disk: Lora
    mtime: float
    modules: dict[str, Module] = field(default_factory=dict)
    bundle_embeddings: dict[str, Any] = field(default_factory=dict)
    te_multiplier: float = 1.0
    unet_multiplier: float = 1.0
    dyn_dim: int | None = None
    mentioned_name: str | None = None


loaded_networks: list[Net] = []
names_of_modules: dict[str, str] = {}
"""Of the model that draws: kohya's name for a module → its tensor."""


def connect(network: Network) -> None:
    """Says which model draws."""
    names_of_modules.clear()
    for name in network.tensors:
        if name.endswith(".weight"):
            layer = "lora_demo_" + name.removesuffix(".weight").replace(".", "_")
            names_of_modules[layer] = name


def load_network(name: str, network_on_disk: Any) -> Net:
    """Reads a LoRA; keys that name no module of the model are passed over."""
    path = Path(network_on_disk.filename)
    net = Net(name=name, on_disk=network_on_disk.lora, mtime=path.stat().st_mtime)
    tensors = read_tensors(path)
    for layer in sorted({key.partition(".")[0] for key in tensors} & names_of_modules.keys()):
        down, up = tensors.get(f"{layer}.lora_down.weight"), tensors.get(f"{layer}.lora_up.weight")
        if down is None or up is None:
            raise AssertionError(f"Could not find a module type that would accept {layer}")
        rank = down.shape[0]
        scale = float(tensors.get(f"{layer}.alpha", np.float32(rank))) / rank
        net.modules[names_of_modules[layer]] = Module(up=up, down=down, scale=scale, net=net)
    return net


def load_networks(
    names: Sequence[str],
    te_multipliers: Sequence[float] = (),
    unet_multipliers: Sequence[float] = (),
) -> None:
    """Puts these in the place of the ones before. A missing or broken one is only spoken of."""
    loaded_networks.clear()
    for number, name in enumerate(names):
        lora = catalogue().find_lora(name)
        if lora is None:
            print(f"Couldn't find network with name {name}")
            continue
        try:
            net = load_network(name, SimpleNamespace(filename=str(lora.path), lora=lora))
        except Exception as error:  # noqa: BLE001  # as the webui, whatever it is
            print(f"loading network {name}: {error}")
            continue
        net.te_multiplier, net.unet_multiplier = te_multipliers[number], unet_multipliers[number]
        net.mentioned_name = name
        loaded_networks.append(net)


_catalogues: list[Catalogue] = []


def use_catalogue(of_all: Catalogue) -> None:
    _catalogues[:] = [of_all]


def catalogue() -> Catalogue:
    return _catalogues[0]


def apply_networks(network: Network, errors: dict[str, int]) -> Network:
    """The network with all that is loaded; a change that fails is left out and counted."""
    for net in loaded_networks:
        changes = {}
        for name, module in net.modules.items():
            try:
                changes[name], _ = module.calc_updown(network.tensors[name])
            except RuntimeError:
                errors[net.name] = errors.get(net.name, 0) + 1
        network = network.with_changes(changes)
    return network


class ExtraNetworkLora:
    """What `<lora:NAME:WEIGHT>` in a prompt does."""

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}

    def activate(self, p: Any, params_list: Sequence[Any]) -> None:
        """Raises ValueError for a weight that is no number, before anything is changed.

        Of a LoRA that is there twice the last weight counts, twice.
        """
        self.errors.clear()
        names = [each.positional[0] for each in params_list]
        numbers = [[float(item) for item in each.positional[1:]] or [1.0] for each in params_list]
        last = dict(zip(names, (first for first, *_ in numbers), strict=True))
        weights = [last[name] for name in names]
        load_networks(names, weights, weights)
        if hashes := self._hashes():
            p.extra_generation_params["Lora hashes"] = ", ".join(hashes)

    def _hashes(self) -> list[str]:
        hashes = []
        for net in loaded_networks:
            if not net.on_disk.sha256:
                catalogue().read_hash(net.on_disk)
            if net.on_disk.sha256:
                alias = net.name.replace(":", "").replace(",", "")
                hashes.append(f"{alias}: {net.on_disk.sha256[:12]}")
        return hashes
