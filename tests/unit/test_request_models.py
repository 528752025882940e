"""Requests that name models beside the checkpoint: what is baked is taken, what is not is refused in words."""

from pathlib import Path
from typing import Any

import pytest

from runtime.errors import FieldError, JobError
from runtime.job.names import read_names
from runtime.job.rules.models import FileRequest
from tests.fake_webui import FakeWebui
from tests.samples import make_weights, make_worker
from tests.unit.test_request import HIRES, parse

URL = "https://civitai.com/api/download/models/1"
UPSCALE = {"image": "AAAA", "upscaler_1": "Lanczos"}


def errors(value: Any, **more: Any) -> list[FieldError]:
    with pytest.raises(JobError) as caught:
        parse(value, **more)
    assert caught.value.code == "invalid_request"
    return list(caught.value.fields)


def restorers(*names: str) -> Any:
    return make_worker(
        weights=(
            make_weights("checkpoint", "base"),
            *(make_weights("face_restorer", name) for name in names),
        )
    )


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        ({**HIRES, "hr_upscaler": "LDSR"}, "hr_upscaler", "no upscaler of that name is baked"),
        ({**UPSCALE, "upscaler_1": "4x"}, "upscaler_1", "no upscaler of that name is baked"),
        ({**UPSCALE, "gfpgan_visibility": 1}, "gfpgan_visibility", "GFPGAN is not baked"),
        (
            {"restore_faces": True, "override_settings": {"face_restoration_model": "GFPGAN"}},
            "restore_faces",
            "GFPGAN is not baked; there is CodeFormer",
        ),
        ({"prompt": "<hypernet:stile:1>"}, "prompt", "no hypernetwork 'stile' is baked (did you mean 'style'?)"),
        ({"prompt": "<hypernet:style:x>"}, "prompt", "<hypernet:style:…>: 'x' is not a number; the form is <hypernet:name:0.8>"),
        ({"prompt": "<hypernet:style:1:2>"}, "prompt", "<hypernet:style:…>: the webui makes nothing of '2'; the form is <hypernet:name:0.8>"),
        ({"prompt": "<hypernet:style:1><hypernet:style:2>"}, "prompt", "names the hypernetwork 'style' twice"),
        ({"negative_prompt": "<hypernet:style:1>"}, "negative_prompt", "<hypernet:…> has no effect in a negative prompt"),
        ({"prompt": "a, embedding:EasyNegative"}, "prompt", "embedding:EasyNegative is drawn as words; say just its name"),
        ({"embeddings": ["EasyNegatve"]}, "embeddings[0].name", "no embedding of that name is baked (did you mean 'EasyNegative'?); else give url"),
        ({"embeddings": ["EasyNegative"]}, "embeddings[0].name", "no prompt says 'EasyNegative': it changes nothing"),
        ({"prompt": "mine", "embeddings": [{"url": URL}]}, "embeddings[0].name", "is missing"),
        (
            {"prompt": "my word", "embeddings": [{"name": "my word", "url": URL}]},
            "embeddings[0].name",
            "must be up to 64 letters, digits, '.', '_' or '-', a letter or digit first",
        ),
        (
            {"prompt": "easynegative", "embeddings": [{"name": "easynegative", "url": URL}]},
            "embeddings[0].name",
            "is a baked embedding's; give the one from an address another name",
        ),
        (
            {"prompt": "x y", "embeddings": [{"name": "x", "url": URL}, {"name": "X", "url": URL}]},
            "embeddings[1].name",
            "'X' is there twice",
        ),
        (
            {"prompt": "mine", "embeddings": [{"name": "mine", "url": URL, "civitai": "1"}]},
            "embeddings[0]",
            "give either url or civitai",
        ),
        (
            {"prompt": "mine", "embeddings": [{"name": "mine", "url": URL, "scale": 1}]},
            "embeddings[0].scale",
            "there is no such field",
        ),
        ({"embeddings": [7]}, "embeddings[0]", "must be an object or a name, not 7"),
        ({"embeddings": ["a"] * 9}, "embeddings", "has 9 entries, at most 8 are allowed"),
        ({**UPSCALE, "embeddings": []}, "embeddings", "is no field of an upscaling"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(value: Any, field: str, message: str) -> None:
    (error,) = errors(value)
    assert (error.field, error.message) == (field, message)


def test_without_a_face_restorer_no_faces_are_restored() -> None:
    (error,) = errors({"restore_faces": True}, worker=restorers())
    assert error.message == "no face restorer is baked"
    assert "restore_faces" not in parse({"restore_faces": None}, worker=restorers()).payload
    assert errors({**UPSCALE, "codeformer_visibility": 0.1}, worker=restorers())


def test_a_setting_that_restores_faces_asks_for_the_same() -> None:
    extra = {"face_restoration": False}
    value = {"override_settings": {"face_restoration": True}}
    request = parse(value, worker=restorers("GFPGAN"), extra_overrides=extra)
    assert request.payload["restore_faces"] is True
    assert request.payload["override_settings"]["face_restoration_model"] == "GFPGAN"
    assert errors(value, worker=restorers(), extra_overrides=extra)
    off = parse({**value, "restore_faces": False}, worker=restorers(), extra_overrides=extra)
    assert off.payload["restore_faces"] is False


@pytest.mark.parametrize(
    ("baked", "asked", "chosen", "notes"),
    [
        (("GFPGAN", "CodeFormer"), None, "CodeFormer", []),
        (("GFPGAN", "CodeFormer"), "GFPGAN", "GFPGAN", []),
        (("GFPGAN",), None, "GFPGAN", ["restore_faces: by GFPGAN, which is baked"]),
    ],
)
def test_faces_are_restored_by_what_is_baked(
    baked: tuple[str, ...], asked: str | None, chosen: str, notes: list[str]
) -> None:
    settings = {"face_restoration_model": asked} if asked else {}
    value = {"restore_faces": True, "override_settings": settings}
    request = parse(value, worker=restorers(*baked, "parsing_parsenet"))
    assert request.payload["override_settings"]["face_restoration_model"] == chosen
    assert list(request.notes) == notes


def test_what_is_baked_is_taken_by_its_name() -> None:
    prompt = "a fox<hypernet:style:0.5><lora:detail:1>, easynegative"
    request = parse({"prompt": prompt, "embeddings": ["EasyNegative"]})
    assert request.prompt_hypernetworks == ["style"]
    assert request.prompt_loras == ["detail"]
    assert request.embeddings == [FileRequest(name="EasyNegative")]
    assert "embeddings" not in request.payload
    assert parse({"prompt": "a fox, EasyNegative"}).embeddings == []


def test_an_embedding_from_an_address_needs_a_folder_for_it() -> None:
    asked = {"prompt": "mine", "embeddings": [{"name": "mine", "civitai": 9208}]}
    (request,) = parse(asked).embeddings
    assert request == FileRequest(name="mine", civitai="9208")
    worker = make_worker()
    older = make_worker(webui=type(worker.webui)(**{**vars(worker.webui), "embedding_dir": ""}))
    (error,) = errors(asked, worker=older)
    assert "this image has no folder for embeddings" in error.message


def test_the_webui_lists_more_upscalers_than_there_are(tmp_path: Path) -> None:
    file = tmp_path / "4x.pth"
    file.touch()

    class Webui(FakeWebui):
        def get(self, name: str) -> list[dict[str, Any]]:
            if name != "upscalers":
                return super().get(name)
            return [
                {"name": "Lanczos", "model_path": None},
                {"name": "LDSR", "model_path": None},
                {"name": "4x", "model_path": str(file)},
                {"name": "gone", "model_path": str(tmp_path / "gone.pth")},
                {"name": "SwinIR 4x", "model_path": "https://github.com/x/y.pth"},
                {"name": "R-ESRGAN 4x+", "model_path": "https://github.com/x/z.pth"},
            ]

    client: Any = Webui()
    assert read_names(client).upscalers == ("Latent", "Lanczos", "4x")
    assert read_names(client, ["R-ESRGAN 4x+"]).upscalers[-1] == "R-ESRGAN 4x+"
