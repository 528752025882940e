"""CivitAI's records: any field may be missing, of another kind or null, and the right file is chosen all the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bake.console import Console
from bake.errors import SourceError
from bake.lock import Licence, Pin
from bake.settings import Settings
from bake.weights.context import Context
from bake.weights.sites import civitai
from bake.weights.sites.civitai import find_civitai, newer_civitai, published_sha256
from bake.weights.sites.civitai_records import (
    File,
    Version,
    choose_file,
    families_of,
    parse_licence,
    parse_version,
)
from bake.weights.sources import Source
from bake.weights.store import Store
from runtime.files.errors import FailureKind, WeightsError

SHA256 = "0123456789ABCDEF" * 4
FILE: dict[str, Any] = {
    "id": 501, "name": "jib.safetensors", "type": "Model", "sizeKB": 2.5, "primary": True,
    "hashes": {"SHA256": SHA256}, "metadata": {"format": "SafeTensor", "fp": "fp16", "size": None},
    "pickleScanResult": "Success", "virusScanResult": "Pending",
}  # fmt: skip
RECORD: dict[str, Any] = {
    "id": 500, "modelId": 400, "name": "v2", "model": {"name": "Jib", "type": "Checkpoint"},
    "baseModel": "Illustrious", "status": "Published", "publishedAt": "2025-03-02T09:16:12.062Z",
    "trainedWords": ["jib", "", None, "mix"], "usageControl": "Download", "files": [FILE, "x", None],
}  # fmt: skip


def version(*files: dict[str, Any], **changes: Any) -> Version:
    listed = [{**FILE, "primary": False, **each} for each in files] or [FILE]
    return parse_version({**RECORD, "files": listed, **changes}, where="x")


# Records


def test_a_record_is_read_whole() -> None:
    file = File(
        file_id=501, name="jib.safetensors", type="Model", about_bytes=2560, sha256=SHA256.lower(),
        is_primary=True, metadata={"format": "SafeTensor", "fp": "fp16"},
        scans=("Success", "Pending"),
    )  # fmt: skip
    read = parse_version(RECORD, where="x")
    assert read == Version(
        version_id=500, model_id=400, name="v2", model_name="Jib", model_type="Checkpoint",
        base_model="Illustrious", status="Published", published_at="2025-03-02T09:16:12.062Z",
        trigger_words=("jib", "mix"), usage_control="Download", early_access=False, files=(file,),
    )  # fmt: skip
    assert (read.title, read.families) == ("Jib v2", ("sdxl",))


@pytest.mark.parametrize("wrong", [None, [], {}, 5, "x", True])
def test_a_record_may_lack_all_but_its_number(wrong: Any) -> None:
    kinds = ("model", "trainedWords", "files")
    texts = ("modelId", "name", "baseModel", "status", "publishedAt", "usageControl")
    names = kinds if wrong in (5, "x") else (*kinds, *texts)
    bare = parse_version({"id": 7, **dict.fromkeys(names, wrong)}, where="x")
    assert bare == parse_version({"id": 7}, where="x")
    assert (bare.title, bare.families, bare.published_at) == ("", None, None)
    assert (bare.status, bare.usage_control, bare.files) == ("Published", "Download", ())
    (file,) = parse_version({"id": 7, "files": [{"hashes": wrong, "metadata": wrong}]}, where="x").files  # fmt: skip
    assert file == File(
        file_id=0, name="file", type="Model", about_bytes=None, sha256=None, is_primary=False,
        metadata={}, scans=("", ""),
    )  # fmt: skip


@pytest.mark.parametrize("data", [{}, {"id": "7"}, {"id": None}, {"error": "no"}])
def test_what_has_no_number_is_no_version(data: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match=r"^civitai:7: CivitAI's answer is no model version$"):
        parse_version(data, where="civitai:7")


@pytest.mark.parametrize(
    ("size", "about"), [(1, 1024), (0.5, 512), (0, None), (-1, None), (True, None), ("1", None)]
)
def test_a_size_is_one_where_it_is_a_number(size: Any, about: int | None) -> None:
    assert version({"sizeKB": size}).files[0].about_bytes == about


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a/b\\c.safetensors", "c.safetensors"), ("a/", "file"), ("", "file"), ("a\x1b[2Jb", "a[2Jb")],
)
def test_a_files_name_is_one_name(name: str, shown: str) -> None:
    assert version({"name": name}).files[0].name == shown


@pytest.mark.parametrize("sha256", [SHA256[:-1], SHA256 + "0", "x" + SHA256[1:], "", None, 5])
def test_a_digest_is_one_or_none(sha256: Any) -> None:
    assert version({"hashes": {"SHA256": sha256}}).files[0].sha256 is None


@pytest.mark.parametrize(
    "change", [{"paidAccess": True}, {"earlyAccessEndsAt": "2027-01-01"}, {"availability": "EarlyAccess"}]
)  # fmt: skip
def test_early_access_is_said_in_three_ways(change: dict[str, Any]) -> None:
    assert version(**change).early_access
    assert not version(**dict.fromkeys(change)).early_access


@pytest.mark.parametrize(
    ("kind", "role"),
    [("Checkpoint", "checkpoint"), ("LORA", "lora"), ("LoCon", "lora"), ("DoRA", "lora"), ("VAE", "vae"),
     ("TextualInversion", "embedding"), ("Hypernetwork", "hypernetwork"), ("Controlnet", "ControlNet"),
     ("Upscaler", "upscaler"), ("Workflows", None), (None, None)],
)  # fmt: skip
def test_a_model_s_kind_is_a_role_but_its_second_file_may_be_its_vae(
    kind: str | None, role: str | None
) -> None:
    of_kind = version({}, {"type": "VAE"}, model={"type": kind})
    model, vae = of_kind.files
    assert (of_kind.role_of(model), of_kind.role_of(vae)) == (role, "vae")


@pytest.mark.parametrize(
    ("name", "families"),
    [
        (None, None), ("", None), ("Other", None), ("SD 1.5", ("sd1",)), ("SD 1.5 LCM", ("sd1",)),
        ("SD 1", ("sd1",)), ("SD 2.1 768", ("sd2",)), ("SD 2.1 Unclip", ("sd2",)), ("SDXL 1.0", ("sdxl",)),
        ("SDXL  Lightning", ("sdxl",)), ("SDXL Distilled", ("sdxl",)), ("Pony", ("sdxl",)),
        ("Pony Diffusion V6 XL", ("sdxl",)), ("Pony V7", ()), ("Illustrious", ("sdxl",)),
        ("Illustrious-XL v2.0", ("sdxl",)), ("NoobAI", ("sdxl",)), ("NoobAI-XL V-Pred 1.0", ("sdxl",)),
        ("SD 3", ()), ("SD 3.5", ()), ("Flux.1 D", ()), ("SDXL 2", ()), ("Illustrious 3.5", ()),
    ],
)  # fmt: skip
def test_families_by_the_base_model(name: str | None, families: tuple[str, ...] | None) -> None:
    assert families_of(name) == families


@pytest.mark.parametrize(
    ("value", "uses"),
    [(["Rent", "Image"], ("Image", "Rent")), ("{Image,Rent}", ("Image", "Rent")), ('{"Sell", Image}', ("Image", "Sell")),
     ("None", ("None",)), ("{}", ()), ([], ()), ([None, "Sell"], ("Sell",)), (None, None), (True, None)],
)  # fmt: skip
def test_commercial_use_in_its_spellings(value: Any, uses: tuple[str, ...] | None) -> None:
    assert parse_licence({"allowCommercialUse": value}).commercial_use == uses


def test_a_licence_is_flags_or_unknown() -> None:
    said = {"allowNoCredit": True, "allowDerivatives": False, "allowDifferentLicense": True}
    assert parse_licence(said) == Licence(no_credit=True, derivatives=False, different_licence=True)
    assert parse_licence(dict.fromkeys(said, "yes")) == Licence()


# Which file


def choose(source: Source, *files: dict[str, Any]) -> str:
    return choose_file(version(*files), source, where="civitai:500").name


def refuse(source: Source, *files: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(SourceError) as caught:
        choose_file(version(*files, **changes), source, where="civitai:500")
    return str(caught.value)


ANY = Source(provider="civitai", version_id=500)
FULL = {"id": 1, "name": "full.safetensors"}
PRUNED = {"id": 2, "name": "pruned.safetensors", "type": "Pruned Model"}
PICKLE = {"id": 3, "name": "full.ckpt"}
VAE = {"id": 4, "name": "vae.safetensors", "type": "VAE"}
LISTED = (
    "  → write one of civitai:500+1 (full.safetensors, Model), civitai:500+2 (pruned.safetensors, Pruned Model)"
)  # fmt: skip


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ([FULL], "full.safetensors"),
        ([FULL, {**PRUNED, "primary": True}], "pruned.safetensors"),
        ([{**PICKLE, "primary": True}, FULL], "full.safetensors"),
        ([PICKLE], "full.ckpt"),
        ([{**PICKLE, "primary": True}], "full.ckpt"),
        ([PICKLE, FULL], "full.safetensors"),
        ([FULL, VAE], "full.safetensors"),
        ([VAE, {**FULL, "type": "Training Data"}], "vae.safetensors"),
    ],
)
def test_the_file_that_is_meant_without_a_word(files: list[dict[str, Any]], chosen: str) -> None:
    assert choose(ANY, *files) == chosen


def test_a_file_is_meant_by_its_number_or_by_what_an_address_asks_for() -> None:
    numbered = Source(provider="civitai", version_id=500, file_id=2)
    assert choose(numbered, {**FULL, "primary": True}, PRUNED) == "pruned.safetensors"
    small = {**FULL, "id": 5, "name": "small.safetensors", "metadata": {"size": "pruned"}}
    large = {**FULL, "primary": True, "metadata": {"size": "full"}}
    wanted = Source(provider="civitai", version_id=500, wanted=(("size", "Pruned"),))
    assert choose(wanted, large, small) == "small.safetensors"
    nothing_fits = Source(provider="civitai", version_id=500, wanted=(("size", "huge"),))
    assert choose(nothing_fits, large, small) == "full.safetensors"
    by_type = Source(provider="civitai", version_id=500, wanted=(("type", "vae"),))
    assert choose(by_type, {**FULL, "primary": True}, VAE) == "vae.safetensors"


def test_what_a_file_fits_needs_a_word_that_it_has() -> None:
    (file,) = version().files
    assert file.fits([("fp", "FP16")])
    assert file.fits([("fp", "fp16"), ("colour", "red")])
    assert not file.fits([("colour", "red")])
    assert not file.fits([("fp", "fp32"), ("format", "SafeTensor")])
    assert not file.fits([])


def test_files_between_which_nothing_decides_are_listed() -> None:
    several = "civitai:500: the version has several files, and nothing says which is meant"
    assert refuse(ANY, FULL, PRUNED) == f"{several}\n{LISTED}"
    two = [{**each, "primary": True} for each in (FULL, PRUNED)]
    assert refuse(ANY, *two) == f"{several}\n{LISTED}"
    many = [{**FULL, "id": number} for number in range(10)]
    assert refuse(ANY, *many).count("civitai:500+") == 8
    numbered = Source(provider="civitai", version_id=500, file_id=9)
    assert refuse(numbered, FULL, PRUNED) == f"civitai:500: version 500 has no file 9\n{LISTED}"
    assert refuse(numbered, files=[]) == (
        "civitai:500: version 500 has no file 9\n  → it has no files"
    )
    assert refuse(ANY, {**FULL, "type": "Training Data"}) == (
        "civitai:500: none of the version's files is a model\n"
        "  → write one of civitai:500+1 (full.safetensors, Training Data)"
    )
    assert refuse(ANY, files=[]) == (
        "civitai:500: the version is archived: CivitAI keeps its record, but no file of it"
    )


# What is asked of its API


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What its API answers, by the end of the address; an exception is raised."""
    known: dict[str, Any] = {"model-versions/500": RECORD, "models/400": {"allowNoCredit": True}}

    def get_json(_client: object, url: str, **_options: object) -> Mapping[str, Any]:
        found = known[url.partition("/api/v1/")[2]]
        if isinstance(found, Exception):
            raise found
        answer: Mapping[str, Any] = found
        return answer

    monkeypatch.setattr(civitai, "get_json", get_json)
    return known


class Warnings(Console):
    """Keeps what it would have warned of."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(
        settings=Settings(store=tmp_path),
        store=Store(tmp_path),
        console=Warnings(),
        folder=tmp_path,
    )


def warnings_of(context: Context) -> list[str]:
    assert isinstance(context.console, Warnings)
    return context.console.said


def test_what_is_found_is_all_that_the_record_says(
    context: Context, answers: dict[str, Any]
) -> None:
    found = find_civitai(context, ANY)
    assert (found.file_name, found.file_id, found.about_bytes) == ("jib.safetensors", 501, 2560)
    assert found.url == "https://civitai.com/api/download/models/500"
    assert (found.sha256, found.title, found.role) == (SHA256.lower(), "Jib v2", "checkpoint")
    assert (found.model_id, found.version_id, found.families) == (400, 500, ("sdxl",))
    assert (found.base_model, found.trigger_words) == ("Illustrious", ("jib", "mix"))
    assert found.published_at == "2025-03-02T09:16:12.062Z"
    assert found.licence == Licence(no_credit=True)
    assert warnings_of(context) == ["civitai:500: CivitAI's virus scan of jib.safetensors: pending"]


def test_what_is_strange_about_a_version_is_warned_of(
    context: Context, answers: dict[str, Any]
) -> None:
    file = {**FILE, "pickleScanResult": "Error", "virusScanResult": "Success"}
    changes = {"paidAccess": True, "status": "Draft", "files": [file]}
    answers["model-versions/500"] = {**RECORD, **changes}
    answers["models/400"] = WeightsError("missing", "gone")
    asked = Source(provider="civitai", version_id=500, wanted=(("fp", "fp8"), ("size", "full")))
    assert find_civitai(context, asked).licence == Licence()
    assert warnings_of(context) == [
        "civitai:500: in early or paid access; a download may be refused",
        "civitai:500: its status is Draft, not Published",
        "civitai:500: no file is known to be fp=fp8, size=full; taken is jib.safetensors",
        "civitai:500: CivitAI's pickle scan of jib.safetensors: error",
        "civitai:500: its model's page is gone, no licence known",
    ]
    answers["models/400"] = WeightsError("stalled", "no answer")
    with pytest.raises(WeightsError, match="no answer"):
        find_civitai(context, ANY)


@pytest.mark.parametrize("kind", ["server", "page", "http", "login"])
def test_a_model_s_record_that_is_broken_is_no_obstacle(
    context: Context, answers: dict[str, Any], kind: FailureKind
) -> None:
    """Some stay so for days, while the version's own record and its file are there."""
    answers["models/400"] = WeightsError(kind, "the server is in trouble (HTTP 500)")
    assert find_civitai(context, ANY).licence == Licence()
    said = "civitai:500: the server is in trouble (HTTP 500), no licence known"
    assert warnings_of(context)[-1] == said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"usageControl": "Generation"}, "the creator allows this version to be used on CivitAI only, not to be downloaded"),
        ({"modelId": 401}, "version 500 belongs to model 401, the source says 400\n  → copy the address from the model's page again"),
        ({"files": [{**FILE, "pickleScanResult": "Danger"}]}, "CivitAI's pickle scan of jib.safetensors found danger"),
        ({"files": [{**FILE, "virusScanResult": "Danger"}]}, "CivitAI's virus scan of jib.safetensors found danger"),
    ],
)  # fmt: skip
def test_a_version_that_cannot_be_used(
    context: Context, answers: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    answers["model-versions/500"] = {**RECORD, **changes}
    with pytest.raises(SourceError) as caught:
        find_civitai(context, Source(provider="civitai", version_id=500, model_id=400))
    assert str(caught.value) == f"civitai:500: {message}"


def test_a_version_without_a_model_has_no_licence(
    context: Context, answers: dict[str, Any]
) -> None:
    answers["model-versions/500"] = {**RECORD, "modelId": None}
    found = find_civitai(context, Source(provider="civitai", version_id=500, model_id=400))
    assert (found.model_id, found.licence) == (None, Licence())


def pinned(**changes: Any) -> Pin:
    known: dict[str, Any] = {
        "key": "checkpoint", "role": "checkpoint", "name": "x", "source": "civitai:500", "url": "",
        "file_name": "x.safetensors", "size_bytes": 1, "sha256": "0" * 64, "model_id": 400,
        "version_id": 500, "file_id": 501, "published_at": "2025-03-02", **changes,
    }  # fmt: skip
    return Pin(**known)


def test_the_digest_of_today_is_that_of_the_same_file(
    context: Context, answers: dict[str, Any]
) -> None:
    assert published_sha256(context, ANY, pinned()) == SHA256.lower()
    assert published_sha256(context, ANY, pinned(file_id=9)) is None


def later(number: int, published: str | None = None, **changes: Any) -> dict[str, Any]:
    files = [{"id": number}]
    return {"id": number, "name": f"v{number}", "publishedAt": published, "files": files, **changes}


def newer(context: Context, answers: dict[str, Any], *versions: Any, **pin: Any) -> list[str]:
    answers["models/400"] = {"modelVersions": list(versions)}
    return [each.source for each in newer_civitai(context, ANY, pinned(**pin))]


def test_later_versions_are_by_their_dates_the_newest_first(
    context: Context, answers: dict[str, Any]
) -> None:
    versions = [
        later(500, "2025-03-02"), later(498, "2025-05-01"), later(501, "2025-03-01"),
        later(502, "2025-04-01", status="Draft"), later(503, "2025-06-01", baseModel="SDXL 1.0"),
        later(504, "2025-07-01", files=[]), "no version", later(505, "2025-03-02"),
    ]  # fmt: skip
    assert newer(context, answers, *versions) == ["civitai:503", "civitai:498"]
    (first, _) = newer_civitai(context, ANY, pinned())
    assert (first.title, first.published_at, first.base_model) == (
        "v503", "2025-06-01", "SDXL 1.0",
    )  # fmt: skip


def test_where_a_date_is_missing_the_numbers_decide(
    context: Context, answers: dict[str, Any]
) -> None:
    assert newer(context, answers, later(499), later(501), later(502)) == [
        "civitai:502", "civitai:501",
    ]  # fmt: skip
    own = [later(500, "2025-03-02"), later(499, "2025-04-01"), later(501, "2025-01-01")]
    assert newer(context, answers, *own, published_at=None) == ["civitai:499"]
    assert newer(context, answers, *own[1:], published_at=None) == ["civitai:501"]
    assert newer(context, answers, later(1), published_at=None, version_id=None) == ["civitai:1"]


def test_a_list_without_any_files_says_nothing_of_archives(
    context: Context, answers: dict[str, Any]
) -> None:
    assert newer(context, answers, later(501, files=None)) == ["civitai:501"]
    answers["models/400"] = {"modelVersions": None}
    assert newer_civitai(context, ANY, pinned()) == []
    with pytest.raises(SourceError) as caught:
        newer_civitai(context, ANY, pinned(model_id=None))
    assert str(caught.value) == (
        "checkpoint: the lock does not know the pin's model\n  → bake lock MANIFEST"
    )
