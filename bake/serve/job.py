"""One job over HTTP: what is sent, progress as it comes, and what comes back."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from bake.errors import ManifestError, VerifyError, did_you_mean
from bake.image.engine.device import explain_other_card
from runtime.job.fields import BY_NAME, SYNONYMS

_TEXTS = ("string", "name", "identifier", "image")
_PICTURES = ("image", "images")
_CONNECT_S = 15
_CHUNK_BYTES = 1 << 20
"""A picture is a line of megabytes, and each chunk of it is joined to all before."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A job's output."""

    pictures: Sequence[bytes]
    """Files in the form that the request asks for; none where they went to a bucket."""
    links: Sequence[str]
    format: str
    infotexts: Sequence[str]
    seconds: float
    """Of the job in the worker."""
    notes: Sequence[str]


def make_input(
    prompt: str, *, fields: Sequence[str] = (), loras: Sequence[str] = ()
) -> dict[str, Any]:
    """A job's input of what stands on the command line.

    Args:
        prompt: What to draw.
        fields: `name=value`; a value is JSON, or a text as it stands, or of a picture `@file`.
        loras: Each a baked LoRA's name, an https address, or a CivitAI version or AIR; a strength may follow
            after a space.

    Raises:
        ManifestError: a text is not of its form, or names no field.
    """
    made: dict[str, Any] = {"prompt": prompt}
    for text in fields:
        name, equals, value = text.partition("=")
        if not equals:
            raise ManifestError(f"{text[:60]!r} is not NAME=VALUE", where="--field")
        field = BY_NAME.get(SYNONYMS.get(name, name))
        if field is None:
            hint = did_you_mean(name, [*BY_NAME, *SYNONYMS])
            raise ManifestError(f"{name[:60]!r} is no field of a request{hint}", where="--field")
        if field.kind in _PICTURES and value.startswith("@"):
            value = _read_picture(Path(value[1:]), name)
            made[name] = value if field.kind == "image" else [*_listed(made.get(name)), value]
        else:
            made[name] = value if field.kind in _TEXTS else _read_value(value)
    if loras:
        made["loras"] = [*_listed(made.get("loras")), *map(_lora, loras)]
    if made.get("image") and not prompt:
        del made["prompt"]  # which an upscaling has not
    return made


def draw(
    url: str,
    value: Mapping[str, Any],
    *,
    on_progress: Callable[[Mapping[str, Any]], None],
    timeout_s: float,
) -> Drawn:
    """Sends a job to a worker's HTTP server and waits for its pictures.

    Args:
        url: The server's, without a path.
        value: The job's input.
        on_progress: Gets each report: `progress` from 0 to 1, `step`, `steps`, `eta_s`.
        timeout_s: Of silence.

    Raises:
        ManifestError: the request is wrong; each field is named.
        VerifyError: the worker failed, or its answer did not come.
    """
    try:
        with requests.post(
            f"{url}/txt2img",
            json={"input": dict(value)},
            headers={"Accept": "text/event-stream"},
            timeout=(_CONNECT_S, timeout_s),
            stream=True,
        ) as answer:
            if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
                raise read_problem(answer.json())
            for name, data in events(answer.iter_lines(chunk_size=_CHUNK_BYTES)):
                if name == "progress":
                    on_progress(data)
                elif name == "result":
                    return read_output(data)
                else:
                    raise read_problem(data)
    except (requests.RequestException, ValueError) as error:
        raise VerifyError(f"the worker's answer did not come ({type(error).__name__})") from error
    raise VerifyError("the worker ended while it drew")


def events(lines: Iterator[bytes]) -> Iterator[tuple[str, Any]]:
    """Server-sent events, with their data as JSON."""
    name = ""
    for line in lines:
        key, _, text = line.decode().partition(": ")
        if key == "event":
            name = text
        elif key == "data":
            yield name, json.loads(text)


def read_problem(problem: Mapping[str, Any]) -> ManifestError | VerifyError:
    """The error that a problem document, or a job's error, stands for."""
    what = str(problem.get("detail") or problem.get("message") or "the worker gives no reason")
    code = str(problem.get("code", "internal"))
    lines = [f"\n    {each['field']}: {each['message']}" for each in problem.get("fields") or ()]
    kind = ManifestError if code in ("invalid_request", "lora_refused") else VerifyError
    told = what + "".join(lines)
    return kind(told, where=code, hint=explain_other_card(told) or None)


def read_output(output: Mapping[str, Any]) -> Drawn:
    """Pictures and what is told of them, of a job's output."""
    about, info = output["bakery"], json.loads(output.get("info") or "{}")
    made = about["output"]
    images = [output["image"]] if "image" in output else output["images"]
    is_stored = made["delivery"] == "s3"
    return Drawn(
        pictures=() if is_stored else [base64.b64decode(each) for each in images],
        links=images if is_stored else (),
        format=made["format"],
        infotexts=info.get("infotexts") or (),
        seconds=float(about["timings"]["total_s"]),
        notes=about["notes"],
    )


def _read_picture(path: Path, where: str) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        what = f"{str(path)!r} cannot be read: {error.strerror}"
        raise ManifestError(what, where=f"--field {where}") from error


def _read_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list) else [value] if value else []


def _lora(text: str) -> dict[str, Any]:
    where, _, scale = text.strip().partition(" ")
    if not where:
        raise ManifestError(
            "a LoRA has a name, an https address or a CivitAI version", where="--lora"
        )
    more: dict[str, Any] = {}
    if scale.strip():
        try:
            more["scale"] = float(scale)
        except ValueError as error:
            what = f"{scale.strip()[:40]!r} is no strength: 'NAME 0.8'"
            raise ManifestError(what, where="--lora") from error
    if where.isdecimal() or "civitai:" in where:
        return {"name": f"civitai-{re.sub(r'[^0-9A-Za-z]+', '-', where)}", "civitai": where, **more}
    if "://" in where:
        return {"name": _stem(where), "url": where, **more}
    return {"name": where, **more}


def _stem(url: str) -> str:
    """A name for what an address leads to: the worker wants one."""
    stem = PurePosixPath(unquote(urlsplit(url).path)).stem
    return re.sub(r"[^0-9A-Za-z_-]+", "-", stem).strip("-")[:60] or "lora"
