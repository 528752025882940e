"""`place`: tensors become the model's parameters as they are, instead of being copied into new ones.

The webui makes its model on the meta device and then, parameter by parameter, allocates zeros and
copies the checkpoint's tensor into them, in the recursion of `Module.load_state_dict`. Here the tensor
itself, converted as upstream converts it, becomes the parameter. Whatever is unusual (a module with a
loader of its own, hooks, a shape that does not fit) goes upstream's way, before anything was changed.
"""

from __future__ import annotations

from typing import Any

from runtime.boot.context import Context
from runtime.boot.hooks import after_import
from runtime.boot.timeline import log


def install(_context: Context) -> None:
    after_import("modules.sd_disable_initialization", _replace, trick="place")


def _replace(module: Any) -> None:
    upstream = module.LoadStateDictOnMeta
    torch, shared = module.torch, module.shared

    class LoadStateDictOnMeta(upstream):  # type: ignore[misc, valid-type]
        def __enter__(self) -> None:
            super().__enter__()
            if shared.cmd_opts.disable_model_loading_ram_optimization:
                return
            # Whatever upstream put there, also where an extension has wrapped it.
            recursive = torch.nn.Module.load_state_dict
            context = self

            def load_state_dict(model: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
                strict = kwargs.get("strict", args[0] if args else True)
                keeps_a_copy = shared.opts.sd_checkpoint_cache > 0
                if state_dict is context.state_dict and not strict and not keeps_a_copy:
                    plan = _plan(torch, model, state_dict)
                    if plan is not None:
                        _carry_out(torch, context, plan)
                        return None
                return recursive(model, state_dict, *args, **kwargs)

            self.replace(torch.nn.Module, "load_state_dict", load_state_dict)

    module.LoadStateDictOnMeta = LoadStateDictOnMeta


def _plan(torch: Any, model: Any, state_dict: Any) -> list[tuple[Any, str, str]] | None:
    """(module, name of its parameter or buffer, key), or None where upstream's way must be taken."""
    nn = torch.nn
    # Their loaders may be wrapped (the LoRA extension resets what it knows of a layer, which is
    # nothing yet), but what they load is what torch loads.
    usual = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)
    stock = nn.Module._load_from_state_dict
    plan = []
    for path, module in model.named_modules(remove_duplicate=False):
        kind = type(module)
        if kind._load_from_state_dict is not stock and not isinstance(module, usual):
            log(f"place is off: {kind.__name__} loads its weights itself")
            return None
        hooks = [*module._load_state_dict_pre_hooks.values()]
        hooks += module._load_state_dict_post_hooks.values()
        if not all(_is_lightnings(hook) for hook in hooks):
            log(f"place is off: {kind.__name__} has hooks for loading")
            return None
        prefix = path + "." if path else ""
        persistent = [
            name for name in module._buffers if name not in module._non_persistent_buffers_set
        ]
        for name in [*module._parameters, *persistent]:
            there = module._parameters.get(name, module._buffers.get(name))
            if there is None:
                continue
            tensor = state_dict.get(prefix + name)
            if tensor is not None and tensor.shape != there.shape:
                log(f"place is off: {prefix + name} has another shape in the checkpoint")
                return None
            plan.append((module, name, prefix + name))
    return plan


def _is_lightnings(hook: Any) -> bool:
    """Lightning's own, which looks for tensors that are sharded over machines."""
    function = getattr(hook, "hook", hook)
    return str(getattr(function, "__module__", "")).startswith("torch.distributed._shard")


def _carry_out(torch: Any, context: Any, plan: list[tuple[Any, str, str]]) -> None:
    with torch.no_grad():
        for module, name, key in plan:
            tensor = context.state_dict.pop(key, None)
            parameter = module._parameters.get(name)
            if parameter is None:
                if tensor is not None:
                    module._buffers[name].copy_(tensor)
                continue
            if tensor is not None:
                tensor = tensor.to(dtype=context.get_weight_dtype(key))
            if not parameter.is_meta:
                if tensor is not None:
                    parameter.copy_(tensor)
                continue
            if tensor is None:
                tensor = torch.zeros_like(parameter, device=context.device)
            module._parameters[name] = torch.nn.Parameter(
                tensor.to(device=context.device), requires_grad=parameter.requires_grad
            )
