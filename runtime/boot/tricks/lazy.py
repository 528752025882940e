"""`lazy`: modules that the webui's imports name but its start does not use are loaded at first use.

A module of `LAZY` is found as always and put into `sys.modules`, but its code runs when an attribute
is first asked for; `from module import name` asks at once, so nothing that is used is missing. Two
kinds need more: `pytorch_lightning` takes a class from torchmetrics for isinstance checks of its
training loop, which never runs here, and gets a placeholder (`PLACEHOLDERS`); torchvision registers
its operators for ONNX export, for which this process has no use (`EMPTY`).
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from runtime.boot.context import Context

_import_system: Any = importlib._bootstrap

LAZY = frozenset(
    {
        "accelerate.utils.fsdp_utils",
        "altair",
        "clip",
        "ftfy",
        "git",
        "gradio_client.client",
        "jsonmerge",
        "kornia",
        "lightning_fabric.fabric",
        "matplotlib",
        "matplotlib.animation",
        "matplotlib.artist",
        "matplotlib.axes",
        "matplotlib.cm",
        "matplotlib.figure",
        "matplotlib.pyplot",
        "modules.gitpython_hack",
        "modules.textual_inversion.autocrop",
        "open_clip.hf_model",
        "open_clip.timm_model",
        "open_clip.tokenizer",
        "pandas",
        "pandas.api",
        "pandas.api.types",
        "pkg_resources",
        "pytorch_lightning.callbacks",
        "pytorch_lightning.loggers",
        "pytorch_lightning.utilities.migration",
        "pytorch_lightning.utilities.migration.utils",
        "pytorch_lightning.trainer",
        "pytorch_lightning.trainer.connectors",
        "pytorch_lightning.trainer.connectors.logger_connector",
        "pytorch_lightning.trainer.connectors.logger_connector.fx_validator",
        "scipy.integrate",
        "scipy.signal",
        "scipy.stats",
        "skimage.transform",
        "sympy",
        "timm",
        "torch._dynamo",
        "torch._meta_registrations",
        "torch.distributed.fsdp",
        "torch.distributed.fsdp.fully_sharded_data_parallel",
        "torch.distributed.fsdp.sharded_grad_scaler",
        "torch.distributed.fsdp.wrap",
        "torch.export",
        "torch.func",
        "torch.fx.experimental.symbolic_shapes",
        "torch.fx.passes.reinplace",
        "torch.onnx",
        "torch.quantization",
        "torchmetrics",
        "torchvision.datasets",
        "torchvision.io",
        "torchvision.models",
        "torchvision.models._utils",
        "torchvision.ops",
    }
)
_LIGHTNING = ("pytorch_lightning",)
PLACEHOLDERS = {
    "torchmetrics": (("Metric", "MetricCollection"), _LIGHTNING),
    "torch.distributed.fsdp.fully_sharded_data_parallel": (
        ("CPUOffload", "FullyShardedDataParallel", "MixedPrecision", "BackwardPrefetch"),
        _LIGHTNING,
    ),
    "torch.distributed.fsdp.sharded_grad_scaler": (("ShardedGradScaler",), _LIGHTNING),
    "torch.distributed.fsdp.wrap": (("enable_wrap",), _LIGHTNING),
}
"""Module: the classes that are replaced, and the packages for which they are."""
FUNCTIONS = {
    "accelerate.utils.fsdp_utils": (
        "load_fsdp_model",
        "load_fsdp_optimizer",
        "save_fsdp_model",
        "save_fsdp_optimizer",
    ),
    "ftfy": ("fix_text",),
    "gradio_client.client": ("Client",),
    "jsonmerge": ("merge",),
    "lightning_fabric.fabric": ("Fabric",),
    "modules.gitpython_hack": ("Repo",),
    "open_clip.hf_model": ("HFTextEncoder",),
    "open_clip.timm_model": ("TimmModel",),
    "open_clip.tokenizer": ("HFTokenizer", "SimpleTokenizer", "decode", "tokenize"),
    "pandas.api.types": ("is_numeric_dtype",),
    "pkg_resources": ("parse_version",),
    "pytorch_lightning.loggers": ("Logger",),
    "pytorch_lightning.trainer": ("Trainer",),
    "pytorch_lightning.trainer.connectors.logger_connector.fx_validator": ("_FxValidator",),
    "pytorch_lightning.utilities.migration": ("pl_legacy_patch",),
    "pytorch_lightning.utilities.migration.utils": ("_pl_migrate_checkpoint",),
    "scipy.integrate": ("solve_ivp",),
    "scipy.stats": ("entropy", "pearsonr"),
    "torch.func": ("vmap",),
    "torchvision.models._utils": ("IntermediateLayerGetter",),
}
"""Module: functions that can be imported by name without loading the module, until they are called."""
SHELLS = {
    "pytorch_lightning.callbacks": {
        "Callback": "callback",
        "Checkpoint": "checkpoint",
        "ModelCheckpoint": "model_checkpoint",
    },
    "pytorch_lightning.trainer": {},
    "pytorch_lightning.trainer.connectors": {},
    "pytorch_lightning.trainer.connectors.logger_connector": {},
    "pytorch_lightning.utilities.migration": {},
}
"""Package: its modules can be imported without its own code; names of it, and the module of it that has them."""
OBJECTS = {"open_clip.tokenizer": ("_tokenizer",)}
"""Module: objects of which the webui only keeps a reference; the module is loaded when one is used."""
IGNORED = {"pkg_resources": ("declare_namespace",)}
"""Module: functions that do nothing here. No package of the webui is spread over several folders."""
DECORATORS = {"torch._dynamo": ("allow_in_graph",)}
"""Module: decorators that return what they are given; the module is told when it is loaded."""
EMPTY: dict[str, tuple[str, ...]] = {
    "pytorch_lightning._graveyard": (),
    "torchvision.ops._register_onnx_ops": ("_register_custom_op",),
}
"""Module: its functions, which do nothing."""


LATE = ("torch._meta_registrations",)
"""Loaded some time after the model, without being asked: it registers functions with torch, which the
start and txt2img do not call, and which nobody would ask this module for."""
LATE_S = 60.0


def install(context: Context) -> None:
    _use_own_distutils()
    sys.meta_path.insert(0, _Finder())
    context.when_loaded(_load_late)


def _use_own_distutils() -> None:
    """Python's own, of which gradio takes the comparison of versions: setuptools' replacement imports all of it."""
    for finder in list(sys.meta_path):
        if type(finder).__name__ == "DistutilsMetaFinder":
            sys.meta_path.remove(finder)


def _load_late() -> None:
    def work() -> None:
        for name in LATE:
            module = sys.modules.get(name)
            if module is not None:
                _load(module)

    timer = threading.Timer(LATE_S, work)
    timer.daemon = True
    timer.start()


class _Finder:
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in EMPTY:
            return ModuleSpec(name, _EmptyLoader())  # type: ignore[arg-type]
        if name not in LAZY:
            parent = sys.modules.get(name.rpartition(".")[0])
            if (
                parent is not None
                and "__bakery_pending__" in parent.__dict__
                and parent.__name__ not in SHELLS
            ):
                _load(parent)  # a package's own code runs before its modules'
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _LazyLoader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _EmptyLoader:
    def create_module(self, _spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        for name in EMPTY[module.__name__]:
            setattr(module, name, lambda *_args, **_kwargs: None)


class _LazyLoader:
    """Makes the module, and leaves the running of its code to the first use."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = self.loader.create_module(spec) or _LazyModule(spec.name)
        module.__class__ = _LazyModule
        return module

    def exec_module(self, module: ModuleType) -> None:
        loader = self.loader
        module.__spec__.loader = module.__loader__ = loader  # type: ignore[union-attr]
        module.__dict__["__bakery_pending__"] = loader
        module.__dict__["__bakery_thread__"] = None
        module.__dict__["__bakery_decorated__"] = []


class _LazyModule(ModuleType):
    """Becomes an ordinary module with the first attribute that it does not have."""

    def __getattr__(self, name: str) -> Any:
        # Names of this form are asked for by whoever walks through sys.modules; no reason to load anything.
        idle = name.startswith("__") and name not in ("__version__", "__all__")
        if "__bakery_pending__" not in self.__dict__ or idle or name == "_pytestfixturefunction":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if f"{self.__name__}.{name}" in LAZY:
            return importlib.import_module(f"{self.__name__}.{name}")
        if (stand_in := _stand_in(self, name)) is not None:
            return stand_in
        _load(self)
        # Not getattr: while this thread runs the module's code, it would come back here.
        return ModuleType.__getattribute__(self, name)

    def __dir__(self) -> list[str]:
        _load(self)
        return sorted(self.__dict__)


def _stand_in(module: ModuleType, name: str) -> Any:
    """What takes a name's place as long as the module is not loaded; None where nothing can."""
    if (home := SHELLS.get(module.__name__, {}).get(name)) is not None:
        return getattr(importlib.import_module(f"{module.__name__}.{home}"), name)
    if name in FUNCTIONS.get(module.__name__, ()):
        return _function(module, name)
    if name in OBJECTS.get(module.__name__, ()):
        return _Object(module, name)
    if name in IGNORED.get(module.__name__, ()):
        return lambda *_args, **_kwargs: None
    is_loading = module.__dict__.get("__bakery_thread__") is not None
    if name in DECORATORS.get(module.__name__, ()) and not is_loading:
        decorated = module.__dict__["__bakery_decorated__"]
        return lambda function: decorated.append((name, function)) or function
    return _placeholder(module, name)


def _function(module: ModuleType, name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        needs_nothing = UNCHANGED.get((module.__name__, name))
        if needs_nothing and len(args) == 1 and not kwargs and needs_nothing(args[0]):
            return args[0]
        _load(module)
        return ModuleType.__getattribute__(module, name)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    return call


def is_plain(text: str) -> bool:
    """Whether ftfy, which the tokenizers ask about every prompt, has nothing to mend in it."""
    printed = text.replace("\n", " ").replace("\t", " ")
    return printed.isascii() and printed.isprintable() and "&" not in printed


UNCHANGED = {("ftfy", "fix_text"): is_plain}
"""Module and function: whether it would give its argument back as it is, for which it need not be loaded."""


class _Object:
    """Stands for an object of a module that is not loaded; its first attribute loads the module."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self.__dict__.update(_module=module, _name=name)

    def __getattr__(self, name: str) -> Any:
        _load(self._module)
        return getattr(ModuleType.__getattribute__(self._module, self._name), name)


def _placeholder(module: ModuleType, name: str) -> Any:
    classes, packages = PLACEHOLDERS.get(module.__name__, ((), ()))
    if name not in classes:
        return None
    frame = sys._getframe(3)
    while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    asking = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    if asking not in packages:
        return None
    made = module.__dict__.setdefault("__bakery_placeholders__", {})
    return made.setdefault(name, type(name, (), {"__module__": module.__name__}))


def _load(module: ModuleType) -> None:
    """Runs the module's code under the import system's own lock, which sees deadlocks coming."""
    names = module.__dict__
    if names.get("__bakery_thread__") == threading.get_ident():
        return
    try:
        with _import_system._ModuleLockManager(module.__name__):
            loader = names.get("__bakery_pending__")
            if loader is None or names.get("__bakery_thread__") is not None:
                return
            names["__bakery_thread__"] = threading.get_ident()
            try:
                loader.exec_module(module)
                names.pop("__bakery_pending__", None)
                module.__class__ = ModuleType
                for name, decorated in names.pop("__bakery_decorated__", ()):
                    names[name](decorated)
            finally:
                names.pop("__bakery_thread__", None)
    except _import_system._DeadlockError:
        # As the import system does: go on with what is there of the module.
        return
