"""The tricks `place`, `ui` and `gc`, and the record of a warm-up, on parts that behave like torch's and the webui's."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from runtime.boot import record
from runtime.boot.context import Context
from runtime.boot.tricks import collector, hashes, pack, place, ui


def context(*arguments: str) -> Context:
    return Context(script="script.py", arguments=arguments, began=0.0)


@dataclass(kw_only=True)
class Tensor:
    """What `place` asks of one."""

    values: list[float] | None
    """None on the meta device."""
    dtype: str = "float32"
    device: str = "cpu"
    requires_grad: bool = True

    @property
    def shape(self) -> tuple[int]:
        return (len(self.values) if self.values is not None else 2,)

    @property
    def is_meta(self) -> bool:
        return self.values is None

    def to(self, *, dtype: str = "", device: str = "") -> Tensor:
        if (dtype or self.dtype, device or self.device) == (self.dtype, self.device):
            return self
        return Tensor(values=self.values, dtype=dtype or self.dtype, device=device or self.device)

    def copy_(self, other: Tensor) -> None:
        self.values = list(other.values or ())


def parameter(tensor: Tensor, *, requires_grad: bool) -> Tensor:
    """As torch's, which shares the storage of what it is made of."""
    return Tensor(
        values=tensor.values, dtype=tensor.dtype, device=tensor.device, requires_grad=requires_grad
    )


@dataclass(kw_only=True)
class Module:
    """One of torch's, with the names that loading goes by."""

    _parameters: dict[str, Tensor | None] = field(default_factory=dict)
    _buffers: dict[str, Tensor | None] = field(default_factory=dict)
    _non_persistent_buffers_set: set[str] = field(default_factory=set)
    _load_state_dict_pre_hooks: dict[int, Any] = field(default_factory=dict)
    _load_state_dict_post_hooks: dict[int, Any] = field(default_factory=dict)
    children: dict[str, Module] = field(default_factory=dict)

    def named_modules(self, *, remove_duplicate: bool) -> Iterator[tuple[str, Module]]:
        assert not remove_duplicate, "a module that is there twice has two names in the checkpoint"
        yield "", self
        yield from self.children.items()

    def _load_from_state_dict(self, *_: Any) -> None:
        """Torch's own."""

    def load_state_dict(self, *_: Any, **__: Any) -> str:
        return "upstream"


class Linear(Module):
    def _load_from_state_dict(self, *_: Any) -> None:
        """Wrapped, as the LoRA extension does; what it loads is what torch loads."""


class Odd(Module):
    def _load_from_state_dict(self, *_: Any) -> None:
        """Loads its weights itself."""


NN = SimpleNamespace(
    Module=Module,
    Linear=Linear,
    **{name: type(name, (), {}) for name in ("Conv2d", "GroupNorm", "LayerNorm")},
    MultiheadAttention=type("MultiheadAttention", (), {}),
    Parameter=parameter,
)


class OnMeta:
    """The webui's `LoadStateDictOnMeta`: converts to half, and replaces what torch has while it is entered."""

    def __init__(self, state_dict: dict[str, Tensor], device: str) -> None:
        self.state_dict, self.device = state_dict, device
        self.replaced: list[tuple[Any, str, Any]] = []

    def replace(self, thing: Any, name: str, new: Any) -> None:
        self.replaced.append((thing, name, getattr(thing, name)))
        setattr(thing, name, new)

    def get_weight_dtype(self, key: str) -> str:
        return "float32" if key.startswith("vae.") else "float16"

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for thing, name, old in self.replaced:
            setattr(thing, name, old)


@dataclass(kw_only=True)
class Loader:
    """`modules.sd_disable_initialization` after `place`, and a model to load."""

    model: Module
    is_off: bool = False
    keeps: int = 0

    def load(
        self, state_dict: dict[str, Tensor], *, other: bool = False, strict: bool = False
    ) -> Any:
        module = ModuleType("modules.sd_disable_initialization")
        zeros = lambda like, device: Tensor(values=[0.0] * like.shape[0], device=device)  # noqa: E731
        module.__dict__.update(
            LoadStateDictOnMeta=OnMeta,
            torch=SimpleNamespace(nn=NN, no_grad=contextlib.nullcontext, zeros_like=zeros),
            shared=SimpleNamespace(
                cmd_opts=SimpleNamespace(disable_model_loading_ram_optimization=self.is_off),
                opts=SimpleNamespace(sd_checkpoint_cache=self.keeps),
            ),
        )
        place._replace(module)
        upstream = Module.load_state_dict
        with module.LoadStateDictOnMeta(state_dict, "cuda"):
            loaded = self.model.load_state_dict(dict(state_dict) if other else state_dict, strict)
        assert Module.load_state_dict is upstream, "it is replaced while it is entered only"
        return loaded


def on_meta(*, frozen: bool = False) -> Tensor:
    return Tensor(values=None, requires_grad=not frozen)


def make_model(kind: type[Module] = Linear) -> Module:
    layer = kind(
        _parameters={"weight": on_meta(), "bias": on_meta(frozen=True), "none": None},
        _buffers={"mean": Tensor(values=[9.0, 9.0]), "scratch": Tensor(values=[1.0, 1.0])},
        _non_persistent_buffers_set={"scratch"},
    )
    vae = Module(_parameters={"weight": Tensor(values=[7.0, 7.0])})
    return Module(children={"layer": layer, "vae": vae})


def weights(**changes: list[float]) -> dict[str, Tensor]:
    names = {"layer.weight": [1.0, 2.0], "layer.mean": [3.0, 4.0], "vae.weight": [5.0, 6.0]}
    found = {name: Tensor(values=values) for name, values in {**names, **changes}.items()}
    return {**found, "other.part": Tensor(values=[0.0])}


def test_tensors_become_the_parameters() -> None:
    model, state_dict = make_model(), weights()
    assert Loader(model=model).load(state_dict) is None
    layer, vae = model.children["layer"], model.children["vae"]
    half = {"dtype": "float16", "device": "cuda"}
    assert layer._parameters == {
        "weight": Tensor(values=[1.0, 2.0], **half),  # type: ignore[arg-type]
        # The checkpoint has none: zeros, as upstream makes them.
        "bias": Tensor(values=[0.0, 0.0], device="cuda", requires_grad=False),
        "none": None,
    }
    assert layer._buffers["mean"] == Tensor(values=[3.0, 4.0])
    assert layer._buffers["scratch"] == Tensor(values=[1.0, 1.0]), "no checkpoint has it"
    # One that is on no meta device keeps its place and type.
    assert vae._parameters["weight"] == Tensor(values=[5.0, 6.0])
    assert set(state_dict) == {"other.part"}, "each tensor is let go of as it is placed"


def hooked(function: Callable[[], None]) -> Module:
    model = make_model()
    model.children["layer"]._load_state_dict_pre_hooks[1] = function
    return model


def test_lightnings_hook_is_no_obstacle() -> None:
    def hook() -> None: ...

    hook.__module__ = "torch.distributed._shard.sharded_tensor"
    assert Loader(model=hooked(hook)).load(weights()) is None


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        (make_model(Odd), {}, "place is off: Odd loads its weights itself"),
        (hooked(lambda: None), {}, "place is off: Linear has hooks for loading"),
        (
            make_model(),
            {"vae.weight": [1.0, 2.0, 3.0]},
            "place is off: vae.weight has another shape in the checkpoint",
        ),
    ],
)
def test_what_is_unusual_goes_upstreams_way_untouched(
    model: Module, changes: dict[str, list[float]], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state_dict = weights(**changes)
    names = set(state_dict)
    assert Loader(model=model).load(state_dict) == "upstream"
    assert set(state_dict) == names
    assert model.children["layer"]._parameters["weight"] == on_meta()
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("loader", "how"),
    [
        ({}, {"strict": True}),
        ({}, {"other": True}),
        ({"keeps": 1}, {}),
        ({"is_off": True}, {}),
    ],
    ids=["strict", "another file's", "the webui keeps a copy", "switched off"],
)
def test_what_is_not_this_checkpoints_own_load_goes_upstreams_way(
    loader: dict[str, Any], how: dict[str, bool]
) -> None:
    assert Loader(model=make_model(), **loader).load(weights(), **how) == "upstream"


class Pages:
    """`modules.api.api` with what its pages are made of; `said` has what happened, in its order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fails: bool = False) -> None:
        self.said: list[str] = []
        self.servers = 0
        said = self.said

        class App:
            @staticmethod
            def create_app() -> None:
                said.append("a server")

        class Blocks:
            def __init__(self, *, analytics_enabled: bool) -> None: ...

            def get_config_file(self) -> dict[str, str]:
                said.append("a configuration")
                return {"of": "upstream"}

            def __enter__(self) -> None: ...

            def __exit__(self, *_: object) -> None:
                self.get_config_file()
                App.create_app()

        self.blocks = ModuleType("gradio.blocks")
        self.blocks.__dict__.update(Blocks=Blocks, routes=SimpleNamespace(App=App))
        for name in ("modules", "modules.img2img", "modules.txt2img"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, "gradio.blocks", self.blocks)
        labels: dict[str, str] = {}
        self.labels = labels

        def register_settings() -> None:
            said.append("settings")
            if fails:
                raise AttributeError("another release's")

        module = SimpleNamespace(
            create_ui=lambda: said.append("all pages"),
            gr=self.blocks,
            ordered_ui_categories=lambda: ["sampler", "scripts", "override"],
            ui_settings=SimpleNamespace(
                UiSettings=lambda: SimpleNamespace(register_settings=register_settings)
            ),
            shared=SimpleNamespace(
                opts=SimpleNamespace(data_labels=labels),
                options_section=lambda section, options: {**options, "section": section[0]},
            ),
            shared_items=SimpleNamespace(callbacks_order_settings=lambda: {"order": "x"}),
            versions_html=lambda: "a name that the pages' module has",
        )
        scripts = SimpleNamespace(
            scripts_txt2img=self._runner("txt2img"), scripts_img2img=self._runner("img2img")
        )

        class Api:
            queue_lock = threading.Lock()

            def __init__(self) -> None:
                if said and said[-1] == "it will fail":
                    raise RuntimeError("no API")
                made.ui.create_ui()

            def init_default_script_args(self, runner: Any) -> str:
                return f"arguments of {runner.name}"

            def apply_infotext(self, request: Any, tabname: str) -> str:
                said.append(f"infotext of {tabname}")
                return "applied"

        made = SimpleNamespace(ui=module, scripts=scripts, Api=Api)
        self.module = made

    def _runner(self, name: str) -> Any:
        note = self.said.append
        return SimpleNamespace(
            name=name,
            initialize_scripts=lambda *, is_img2img: note(f"{name}: {is_img2img}"),
            prepare_ui=lambda: note(f"{name}: prepared"),
            setup_ui=lambda: note(f"{name}: its scripts"),
            setup_ui_for_section=lambda category: note(f"{name}: {category}"),
        )


def test_of_the_pages_only_what_the_api_works_with_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    webui = Pages(monkeypatch)
    before = webui.blocks.Blocks.get_config_file
    ui._replace(webui.module)
    webui.module.Api()
    expected = ["settings"]
    for name, is_img2img in (("txt2img", False), ("img2img", True)):
        expected += [f"{name}: {is_img2img}", f"{name}: prepared", f"{name}: sampler"]
        expected += [f"{name}: its scripts", f"{name}: scripts", f"{name}: override"]
    assert webui.said == expected, "no configuration and no server"
    assert webui.labels == {"order": "x", "section": "callbacks"}
    assert webui.module.scripts.scripts_current is None
    assert webui.module.ui.versions_html().startswith("a name"), "all else is upstream's"
    # Whoever makes pages later gets upstream's.
    assert webui.blocks.Blocks.get_config_file is before
    webui.blocks.routes.App.create_app()
    assert webui.said[-1] == "a server"


def test_upstreams_blocks_are_back_after_an_api_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webui = Pages(monkeypatch)
    before = webui.blocks.Blocks.get_config_file
    ui._replace(webui.module)
    webui.said.append("it will fail")
    with pytest.raises(RuntimeError, match="no API"):
        webui.module.Api()
    assert webui.blocks.Blocks.get_config_file is before


def test_pages_of_another_release_are_all_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    webui = Pages(monkeypatch, fails=True)
    ui._replace(webui.module)
    server = webui.module.Api()
    assert webui.said == ["settings", "all pages"]
    assert "ui is off: AttributeError" in capsys.readouterr().err
    server.apply_infotext(SimpleNamespace(infotext="Steps: 1"), "txt2img")
    assert webui.said.count("all pages") == 1, "they are there"


def test_the_first_request_with_an_infotext_makes_all_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webui = Pages(monkeypatch)
    ui._replace(webui.module)
    server = webui.module.Api()
    assert server.apply_infotext(SimpleNamespace(infotext=None), "txt2img") == "applied"
    assert "all pages" not in webui.said
    for tab in ("txt2img", "img2img"):
        server.apply_infotext(SimpleNamespace(infotext="Steps: 1"), tabname=tab)
    assert webui.said[-3:] == ["all pages", "infotext of txt2img", "infotext of img2img"]
    assert server.default_script_arg_txt2img == "arguments of txt2img"
    assert server.default_script_arg_img2img == "arguments of img2img"


def test_an_api_whose_pages_are_made_in_another_way_is_left_alone() -> None:
    api = SimpleNamespace(ui=SimpleNamespace(create_ui=None), Api=object)
    with pytest.raises(AttributeError, match="create_ui"):
        ui._replace(api)
    assert api.ui.create_ui is None


class Collecting:
    """The trick `gc` on a collector and a timer that only note."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.after: dict[str, Callable[[Any], None]] = {}
        self.context = context()
        self.late: Callable[[], None] | None = None

        def timer(seconds: float, function: Callable[[], None]) -> Any:
            assert seconds == collector.LATEST_S
            self.late = function
            return SimpleNamespace(start=lambda: None)

        for name in ("disable", "freeze", "enable"):
            monkeypatch.setattr(gc, name, lambda name=name: self.said.append(name))
        monkeypatch.setattr(threading, "Timer", timer)
        monkeypatch.setattr(
            collector,
            "after_import",
            lambda name, callback, **_: self.after.update({name: callback}),
        )
        collector.install(self.context)
        assert self.said == ["disable"]

    def serve(self) -> None:
        class BaseServer:
            def serve_forever(self) -> str:
                return "served"

        module = SimpleNamespace(BaseServer=BaseServer)
        self.after["socketserver"](module)
        assert module.BaseServer().serve_forever() == "served"

    def load(self) -> None:
        self.context.model_is_loaded = True
        for function in self.context._when_loaded:
            function()


@pytest.mark.parametrize("order", [("serve", "load"), ("load", "serve")])
def test_garbage_is_collected_again_when_it_serves_and_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, order: tuple[str, str]
) -> None:
    case = Collecting(monkeypatch)
    case.context.has_model_hook = True
    getattr(case, order[0])()
    assert case.said == ["disable"], "the start is not over"
    getattr(case, order[1])()
    assert case.said == ["disable", "freeze", "enable"]
    assert case.late is not None
    case.late()
    assert case.said == ["disable", "freeze", "enable"], "once is enough"


def test_a_script_without_a_model_is_served_and_any_other_ends_at_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Collecting(monkeypatch)
    case.serve()
    assert case.said == ["disable", "freeze", "enable"]
    case = Collecting(monkeypatch)
    assert case.late is not None
    case.late()
    assert case.said == ["disable", "freeze", "enable"]


def test_uvicorn_serves_when_it_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Collecting(monkeypatch)

    class Server:
        async def startup(self, sockets: list[int]) -> list[int]:
            case.said.append("started")
            return sockets

    case.after["uvicorn.server"](SimpleNamespace(Server=Server))
    with pytest.raises(StopIteration) as ended:
        Server().startup([3]).send(None)
    assert ended.value.value == [3]
    assert case.said == ["disable", "started", "freeze", "enable"]


def test_a_record_has_two_files_and_a_part_that_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packed: dict[str, Any] = {}

    def make_pack(modules: Any) -> bytes:
        packed.update(modules)
        return b"packed"

    known = {"/models/lora.safetensors": {"sha256": "x"}}
    monkeypatch.setattr(pack, "make_pack", make_pack)
    monkeypatch.setattr(hashes, "read_known", lambda _: known)
    monkeypatch.setattr(hashes, "make_file", lambda given: {"of": sorted(given), "a": 1})
    folder = tmp_path / "harvest" / "record"
    record.write_record(str(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        pack.FILE: b"packed",
        hashes.FILE: b'{\n "a": 1,\n "of": [\n  "/models/lora.safetensors"\n ]\n}\n',
    }
    assert "json" in packed
    assert not [name for name in packed if name.partition(".")[0] == "runtime"]

    def fails(_modules: Any) -> bytes:
        raise OSError("no such module")

    monkeypatch.setattr(pack, "make_pack", fails)
    record.write_record(str(tmp_path / "other"))
    assert [path.name for path in (tmp_path / "other").iterdir()] == [hashes.FILE]
    assert f"no {pack.FILE}: OSError" in capsys.readouterr().err
