"""What came back, held against what was asked for: each way in which the webui may have drawn something else."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from runtime.errors import JobError
from runtime.job.asked import OutputOptions, Request
from runtime.job.honoured import Honoured, check_honoured, check_size, read_info
from runtime.job.lora import Applied
from runtime.job.rules.models import FileRequest

INFO: dict[str, Any] = {"sd_model_name": "base", "infotexts": ["a fox"]}
GOOD = {"layers": 10, "matched": 10, "applied": 10, "failed": 0, "has_effect": True}


def request(**changes: Any) -> Request:
    known: dict[str, Any] = {
        "payload": {"prompt": "p"}, "pictures": {}, "checkpoint": "base", "images": 1,
        "output": OutputOptions(), **changes,
    }  # fmt: skip
    return Request(**known)


def applied(name: str = "mine", *, scale: float = 1.0) -> Applied:
    return Applied(
        name=name, tag=f"{name}-ab", scale=scale, sha256="a" * 64, source="baked", was_cached=True
    )


def proof(*loras: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"loras": list(loras), "scripts": [], "interrupted": False, **more}


def check(
    asked: Request | None = None,
    *loras: Applied,
    drawn: int = 1,
    info: dict[str, Any] | None = None,
    proof: dict[str, Any] | None = None,
) -> Honoured:
    return check_honoured(
        asked or request(), loras, drawn=drawn, info={**INFO, **(info or {})}, proof=proof
    )


def refusal(*arguments: Any, **more: Any) -> tuple[str, str, str]:
    with pytest.raises(JobError) as caught:
        check(*arguments, **more)
    return caught.value.code, caught.value.message, caught.value.detail


def test_our_part_is_taken_out_of_the_webuis_words() -> None:
    answer = {"info": json.dumps({"all_seeds": [1], "bakery": {"loras": []}})}
    assert read_info(answer) == ({"all_seeds": [1]}, {"loras": []})
    assert answer == {"info": '{"all_seeds": [1]}'}
    plain = {"info": '{"all_seeds":[1]}'}
    assert read_info(plain) == ({"all_seeds": [1]}, None)
    assert plain == {"info": '{"all_seeds":[1]}'}


@pytest.mark.parametrize("answer", [{}, {"info": None}, {"info": "{"}, {"info": "[]"}])
def test_an_answer_without_words_says_nothing(answer: dict[str, Any]) -> None:
    assert read_info(answer) == ({}, None)


def test_pictures_are_counted_and_belong_to_the_checkpoint() -> None:
    two = request(images=2)
    assert check(two, drawn=2) == Honoured(loras=[], notes=[])
    assert check(two, drawn=3).notes == ["the last 1 of images are what scripts add to them"]
    assert refusal(two, drawn=1) == ("generation_failed", "the webui drew 1 of 2 pictures", "")
    interrupted = proof(interrupted=True)
    assert refusal(proof=interrupted) == ("generation_failed", "the drawing was interrupted", "")
    assert refusal(info={"sd_model_name": "other"}) == (
        "not_honoured", "the webui drew with another checkpoint than 'base'", "with 'other'",
    )  # fmt: skip
    upscaling = request(endpoint="extra-single-image", checkpoint="")
    assert check(upscaling, info={"sd_model_name": "other"}) == Honoured(loras=[], notes=[])


def test_each_lora_comes_back_with_its_layers() -> None:
    (entry,) = check(request(), applied(), proof=proof({"name": "mine-ab", **GOOD})).loras
    assert entry == {
        "name": "mine", "tag": "mine-ab", "scale": 1.0, "sha256": "a" * 64, "source": "baked",
        "was_cached": True, "layers": 10, "applied": 10,
    }  # fmt: skip
    unknown = check(request(), applied(), info=listing("mine-ab"))
    assert [(each["layers"], each["applied"]) for each in unknown.loras] == [(None, None)]
    part = proof({"name": "mine-ab", **GOOD, "applied": 9}, {"name": "detail", **GOOD})
    assert check(request(prompt_loras=["detail"]), applied(), proof=part).notes == [
        "the LoRA 'mine' is for another model in part: 9 of its 10 layers were applied"
    ]


def listing(*names: str) -> dict[str, Any]:
    return {"extra_generation_params": {"Lora hashes": ", ".join(f"{name}: ab" for name in names)}}


@pytest.mark.parametrize(
    ("count", "why"),
    [
        ({"matched": 0}, "none of its names is that of a layer of this model"),
        ({"matched": 0, "reason": "KeyError: x"}, "the webui could not read it"),
        ({"matched": 0, "reason": "FileNotFoundError: No such file or directory"}, "the webui did not find it"),
        ({"matched": 0, "reason": "Could not find a Module Type"}, "a layer's parts are of no kind that the webui knows"),
        ({"applied": 0}, "none of its 10 layers took part in the drawing"),
        ({"has_effect": False}, "all its changes are zero"),
        ({"failed": 3}, "3 of 10 layers failed"),
        ({"failed": 3, "reason": "KeyError: x"}, "3 of 10 layers failed"),
        ({"failed": 3, "reason": "not implemented for 'Half'"}, "3 of 10 layers failed: its precision cannot be computed here"),
        ({"failed": 3, "reason": "expected scalar type Half"}, "3 of 10 layers failed: its precision cannot be computed here"),
        ({"failed": 3, "reason": "must have the same dtype"}, "3 of 10 layers failed: its precision cannot be computed here"),
        ({"failed": 3, "reason": "mat1 and mat2 SHAPES"}, "3 of 10 layers failed: its shapes are not those of this model's layers"),
        ({"failed": 3, "reason": "EinopsError"}, "3 of 10 layers failed: its shapes are not those of this model's layers"),
        ({"failed": 3, "reason": "could not be broadcast"}, "3 of 10 layers failed: its shapes are not those of this model's layers"),
    ],
)  # fmt: skip
def test_a_lora_that_did_nothing_is_told_with_its_reason(count: dict[str, Any], why: str) -> None:
    counts = {"name": "mine-ab", **GOOD, **count}
    other = {"name": "detail", **GOOD}
    code, message, detail = refusal(
        request(prompt_loras=["detail"]), applied(), proof=proof(counts, other)
    )
    assert (code, message) == ("lora_not_applied", f"the webui drew without mine ({why})")
    assert json.loads(detail) == {"mine-ab": counts, "detail": other}


def test_all_loras_that_did_nothing_are_named() -> None:
    _, message, _ = refusal(request(prompt_loras=["detail"]), applied(), proof=proof())
    none = "none of its names is that of a layer of this model"
    assert message == f"the webui drew without detail ({none}), mine ({none})"
    assert check(request(), applied(scale=0), proof=proof()).notes == []


def test_memory_that_ran_out_is_no_fault_of_the_lora() -> None:
    counts = {"name": "mine-ab", **GOOD, "failed": 1, "reason": "CUDA Out of Memory. Tried"}
    assert refusal(request(), applied(), proof=proof(counts)) == (
        "out_of_memory",
        "the device's memory ran out; a smaller picture or fewer LoRAs may fit",
        "CUDA Out of Memory. Tried",
    )


UNPROVEN = (
    "the webui listed the LoRAs as loaded; which of their layers it applied cannot be seen here"
)


def test_without_proof_the_webuis_own_list_counts() -> None:
    both = request(prompt_loras=["detail"])
    assert check(both, applied(), info=listing("detail", "mine-ab")).notes == [UNPROVEN]
    assert check().notes == []
    assert refusal(both, applied(), info=listing("mine-ab", "other")) == (
        "lora_not_applied", "the webui drew without detail", "mine-ab: ab, other: ab",
    )  # fmt: skip
    assert refusal(both, applied()) == (
        "lora_not_applied", "the webui drew without detail, mine", "",
    )  # fmt: skip
    empty = {"extra_generation_params": None}
    assert refusal(both, applied(), info=empty)[1] == "the webui drew without detail, mine"


def test_the_second_pass_lists_its_own_loras_only() -> None:
    payload = {"enable_hr": True, "hr_prompt": "<lora:second:1> b"}
    hires = request(payload=payload, prompt_loras=["first", "second"])
    assert check(hires, info=listing("second")).notes == [UNPROVEN]
    assert refusal(hires, info=listing("first"))[1] == "the webui drew without second"
    assert refusal(hires, applied(), info=listing("second"))[1] == "the webui drew without mine"
    off = request(payload={**payload, "enable_hr": False}, prompt_loras=["first", "second"])
    assert refusal(off, info=listing("second"))[1] == "the webui drew without first"


@pytest.mark.parametrize(
    ("word", "asked"),
    [
        ("embedding", request(embeddings=[FileRequest(name="a"), FileRequest(name="b")])),
        ("hypernetwork", request(prompt_hypernetworks=["a", "b"])),
    ],
)
def test_words_that_the_webui_passed_over(word: str, asked: Request) -> None:
    assert check(asked, proof=proof(**{f"{word}s": ["b", "a"]})).notes == []
    code, message, _ = refusal(asked, proof=proof(**{f"{word}s": ["a"]}))
    assert (code, message) == ("not_honoured", f"the webui drew without the {word} 'b'")
    assert refusal(asked, proof=proof())[1] == f"the webui drew without the {word} 'a'"
    assert check(asked).notes == [f"whether the webui used the {word} 'a' cannot be seen here"]


def over(payload: dict[str, Any], **pictures: str) -> Request:
    return request(endpoint="img2img", payload=payload, pictures=pictures)


def test_a_mask_and_guidance_must_show_in_the_infotext() -> None:
    masked = {"extra_generation_params": {"Inpaint area": "Only masked"}}
    assert check(over({}, mask="x"), info=masked).notes == []
    assert check(over({"inpaint_full_res": False}, mask="x")).notes == []
    assert check(over({})).notes == []
    assert check(request(pictures={"mask": "x"})).notes == []
    assert refusal(over({}, mask="x")) == (
        "not_honoured",
        "the mask has nothing to draw in it, so the webui drew over the whole picture",
        "",
    )
    guided = over({"image_cfg_scale": 1.5})
    unused = ["image_cfg_scale: not used by this checkpoint"]
    assert check(guided).notes == check(guided, info={"infotexts": None}).notes == unused
    used = {"infotexts": ["Image CFG scale: 1.5", "other"]}
    assert check(guided, info=used).notes == []
    assert check(guided, info={"infotexts": used["infotexts"][::-1]}).notes == unused


def failed(**changes: Any) -> dict[str, Any]:
    failure = {"names": ["tint", "shade"], "method": "process", "reason": "ValueError: no"}
    return proof(scripts=[{**failure, **changes}])


def test_a_script_that_failed_fails_who_asked_for_it() -> None:
    asked = request(payload={"alwayson_scripts": {"shade": {}}})
    what = "the script tint, shade failed in process"
    assert refusal(asked, proof=failed()) == (
        "not_honoured", f"{what}: ValueError: no", "ValueError: no",
    )  # fmt: skip
    for path in ("no /a/b", "no C:\\a"):
        assert refusal(asked, proof=failed(reason=path)) == ("not_honoured", what, path)
    assert check(proof=failed()).notes == [f"{what}; the request does not name it"]
    memory = "OutOfMemoryError: CUDA out of memory"
    assert refusal(proof=failed(reason=memory)) == (
        "out_of_memory",
        "the device's memory ran out; a smaller picture or fewer LoRAs may fit",
        memory,
    )


def png(width: int, height: int) -> str:
    start = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)
    return base64.b64encode(start + bytes(20)).decode()


def test_the_size_of_an_upscaled_picture() -> None:
    check_size([png(20, 10)], (20, 10))
    check_size([png(20, 10)], None)
    check_size([base64.b64encode(b"\xff\xd8\xff" + bytes(40)).decode()], (20, 10))
    for other in ((10, 20), (20, 11), (19, 10)):
        with pytest.raises(JobError) as caught:
            check_size([png(20, 10)], other)
        assert (caught.value.code, caught.value.message) == (
            "not_honoured",
            "the webui made a picture of another size than asked for",
        )
