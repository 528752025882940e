"""Bad images, made by hand, are each caught with the reason; a good one passes."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from bake.console import Console
from bake.errors import BuildError, VerifyError
from bake.image.final.assemble import ImageConfig, assemble
from bake.image.final.inspect import count_components, inspect_image
from bake.image.final.packages import Package, parse_dpkg_status, parse_metadata
from bake.image.final.sbom import make_documents_layer
from bake.image.oci.layers import PlacedFile, make_weights_layer
from bake.image.oci.model import (
    BASE_DIGEST_LABEL,
    GZIP_LAYER,
    PROVENANCE_FILE,
    SBOM_FILE,
    BytesContent,
    Descriptor,
    Image,
    Layer,
    sha256_digest,
)
from bake.image.oci.streams import gunzipped, open_tar, unpacked
from bake.image.verify import checks
from bake.image.verify.image import refuse_bad, verify_image
from bake.image.verify.scan import scan_layer
from bake.image.verify.secrets import SecretScanner
from bake.image.verify.verdict import Check, Verdict
from bake.lock import Licence, Lock, Pin
from runtime.worker import Webui, Weights, Worker
from tests.unit.test_assemble import make_base

BASE = make_base().identity
CONSOLE = Console(quiet=True)
SCANNER = SecretScanner(literals=(("CIVITAI_TOKEN", b"my-own-token-1234"),))
CONTENT = b"weights " * 1000
PATH = "/models/a.safetensors"
SHA256 = sha256_digest(CONTENT)[7:]


def make_worker() -> Worker:
    webui = Webui(name="demo", version="1", revision="r", directory="/", python="/p", script="/s")
    weights = Weights(
        role="checkpoint", name="a", path=PATH, sha256=SHA256, size_bytes=len(CONTENT)
    )
    return Worker(name="demo", family="demo", webui=webui, weights=(weights,), lock_sha256="1" * 64)


def make_lock(sha256: str = SHA256) -> Lock:
    pin = Pin(
        key="checkpoint",
        role="checkpoint",
        name="a",
        source="civitai:1",
        file_name="a.safetensors",
        size_bytes=len(CONTENT),
        sha256=sha256,
        url="https://civitai.example/a",
        version_id=1,
        licence=Licence(name="openrail", commercial_use=("Image",)),
    )
    return Lock(manifest_name="demo", family="demo", pins=(pin,))


Entry = tuple[str, bytes | None]


def tar_of(*entries: Entry, edit: Callable[[tarfile.TarInfo], None] | None = None) -> bytes:
    """A tar; an entry without content is a folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content or b"")
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            if edit:
                edit(entry)
            tar.addfile(entry, io.BytesIO(content or b""))
    return packed.getvalue()


def thin(*entries: Entry, comment: str = "thin") -> Layer:
    tree = tar_of(*entries)
    packed = gzip.compress(tree, mtime=0)
    return Layer(
        descriptor=Descriptor(
            media_type=GZIP_LAYER, digest=sha256_digest(packed), size_bytes=len(packed)
        ),
        diff_id=sha256_digest(tree),
        comment=comment,
        content=BytesContent(data=packed),
    )


WORKER_LAYER = thin(("opt/bakery/worker.json", make_worker().to_json().encode()))


def weights_layer(folder: Path, content: bytes = CONTENT) -> Layer:
    source = folder / "a"
    source.write_bytes(content)
    placed = PlacedFile(
        path=PurePosixPath(PATH), source=source, size_bytes=len(content), sha256=SHA256
    )
    return make_weights_layer([placed]).as_layer()


def make_image(
    folder: Path, *extra: Layer, env: dict[str, str] | None = None, lock: str | None = None
) -> Image:
    labels = {"bakery.lock": make_lock().to_json() if lock is None else lock}
    config = ImageConfig(entrypoint=["/worker"], env=env or {}, labels=labels)
    layers = [weights_layer(folder), WORKER_LAYER, *extra]
    return assemble(make_base(), layers=layers, config=config)


def verify(image: Image, lock: Lock | None = None) -> Verdict:
    return verify_image(image, name="x", console=CONSOLE, scanner=SCANNER, lock=lock)


def failures(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.message for check in verdict.checks if check.severity == "error"}


def test_a_good_image_passes_and_says_what_was_read(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    verdict = verify(image)
    assert failures(verdict) == {}
    assert verdict.is_good
    assert verdict.read_bytes == sum(layer.size_bytes for layer in image.layers[2:])
    data = json.loads(json.dumps(verdict.as_json()))
    assert data["verdict"] == "good"
    assert {each["name"] for each in data["checks"]} == {
        "size", "layers", "largest-layer", "digests", "lock", "documents", "weights checkpoint a", "secrets", "base",
    }  # fmt: skip


def test_a_missing_file_is_caught(tmp_path: Path) -> None:
    whole = make_image(tmp_path)
    config = ImageConfig(entrypoint=["/w"], labels={"bakery.lock": make_lock().to_json()})
    image = assemble(make_base(), layers=[whole.layers[3]], config=config)
    assert failures(verify(image)) == {
        "weights checkpoint a": f"{PATH} is in no layer above the base"
    }


def test_a_wrong_byte_is_caught(tmp_path: Path) -> None:
    wrong = bytearray(CONTENT)
    wrong[77] ^= 1
    layer = weights_layer(tmp_path, bytes(wrong))
    config = ImageConfig(entrypoint=["/w"], labels={"bakery.lock": make_lock().to_json()})
    image = assemble(make_base(), layers=[layer, WORKER_LAYER], config=config)
    found = failures(verify(image))
    assert list(found) == ["weights checkpoint a"]
    assert f"{SHA256} was pinned" in found["weights checkpoint a"]


def test_bytes_that_are_not_those_of_the_manifest_are_caught(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    (tmp_path / "a").write_bytes(CONTENT.replace(b"w", b"v", 1))
    found = failures(verify(image))
    assert "digests" in found
    assert image.layers[2].digest in found["digests"]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([("models", None), ("models/a.safetensors", CONTENT)], "writes it again"),
        ([("models/.wh.a.safetensors", b"")], f"removes {PATH}"),
        ([(".wh.models", b"")], "removes /models"),
        ([("models/.wh..wh..opq", b"")], "hides what was in /models"),
        ([("models", b"a file")], "puts something else in place of /models"),
        ([("models/a.safetensors", None)], "puts a folder in its place"),
    ],
)
def test_a_layer_over_the_weights_is_caught(
    tmp_path: Path, entries: list[Entry], reason: str
) -> None:
    above = thin(*entries, comment="RUN chown -R 1000 /models")
    found = failures(verify(make_image(tmp_path, above)))
    message = found["untouched checkpoint a"]
    assert message.startswith(f"a layer above {PATH} {reason} (RUN chown -R 1000 /models, ")


def test_a_folder_entry_or_a_neighbour_above_the_weights_is_fine(tmp_path: Path) -> None:
    above = thin(("models", None), ("models/b.txt", b"x"), ("models/.wh.c", b""))
    assert failures(verify(make_image(tmp_path, above))) == {}


def test_a_chown_shows_in_the_files_metadata(tmp_path: Path) -> None:
    def chown(entry: tarfile.TarInfo) -> None:
        entry.uid = 1000

    tree = tar_of(("models/a.safetensors", CONTENT), edit=chown)
    layer = Layer(
        descriptor=Descriptor(media_type="tar", digest=sha256_digest(tree), size_bytes=len(tree)),
        diff_id=sha256_digest(tree),
        kind="weights",
        content=BytesContent(data=tree),
    )
    config = ImageConfig(entrypoint=["/w"], labels={"bakery.lock": make_lock().to_json()})
    image = assemble(make_base(), layers=[layer, WORKER_LAYER], config=config)
    message = failures(verify(image))["weights checkpoint a"]
    assert "belongs to 1000:0" in message
    assert "its time is not the one that the webui's hash cache was made for" in message


def test_of_two_entries_of_one_path_in_a_layer_the_last_counts() -> None:
    def link(entry: tarfile.TarInfo) -> None:
        if entry.name == "b":
            entry.name, entry.type, entry.linkname = "a", tarfile.SYMTYPE, "/x"

    facts = scan_layer([tar_of(("a", b"x"), ("b", b""), edit=link)], SCANNER)
    assert not facts.files
    assert facts.links == {PurePosixPath("/a")}


def broken(name: str) -> bytes:
    """A layer that no engine unpacks."""
    tree = tar_of(("app/x", bytes(range(256)) * 400), ("app/y", b"y" * 3000))
    packed = gzip.compress(tree, mtime=0)
    flipped = bytearray(packed)
    flipped[-6] ^= 0xFF
    made = {
        "gzip that ends early": packed[:-100],
        "gzip with another checksum": bytes(flipped),
        "gzip and more": packed + b"more",
        "tar that ends early": tree[:2000],
        "no tar": b"<html>" * 500,
        "zstd": b"\x28\xb5\x2f\xfd" + b"x" * 2000,
    }
    if name in made:
        return made[name]
    entry = tarfile.TarInfo("app/x")
    entry.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": "?",
    }
    return entry.tobuf(tarfile.PAX_FORMAT) + b"\0" * 1024


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gzip that ends early", "a gzipped layer ends in the middle"),
        ("gzip with another checksum", "a gzipped layer is damaged"),
        ("gzip and more", "a gzipped layer is damaged"),
        ("tar that ends early", "not a sound tar"),
        ("no tar", "not a sound tar"),
        ("header of no sense", "not a sound tar"),
        ("zstd", "a layer under zstd is damaged"),
    ],
)
def test_a_layer_that_does_not_unpack_is_a_verdict_and_no_exception(
    tmp_path: Path, name: str, reason: str
) -> None:
    data = broken(name)
    layer = Layer(
        descriptor=Descriptor(
            media_type=GZIP_LAYER, digest=sha256_digest(data), size_bytes=len(data)
        ),
        diff_id="sha256:" + "1" * 64,
        content=BytesContent(data=data),
    )
    found = failures(verify(make_image(tmp_path, layer)))
    assert list(found) == ["digests"]
    assert f"{layer.digest} does not unpack: " in found["digests"]
    assert reason in found["digests"]


HF_TOKEN = b"hf_" + b"A1b2C3d4E5" * 4
PRIVATE_KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + b"b3BlbnNzaC1rZXktdjEA" * 4 + b"\n"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("root/.netrc", b"x", "credentials in /root/.netrc"),
        ("app/.git/HEAD", b"ref", "a git repository in /app/.git/HEAD"),
        ("root/.cache/pip/http/a", b"x", "pip's cache in /root/.cache/pip/http/a"),
        ("root/.ssh/id_ed25519", b"x", "a private key in /root/.ssh/id_ed25519"),
        ("app/key.pem", PRIVATE_KEY, "a private key in /app/key.pem"),
        ("app/k.yaml", PRIVATE_KEY.replace(b"\n", b"\n    "), "a private key in /app/k.yaml"),
        (
            "app/k",
            b"-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----",
            "a private key in /app/k",
        ),
        ("app/.git/index", b"DIRC", "a git repository in /app/.git/index"),
        ("root/.pypirc", b"x", "credentials in /root/.pypirc"),
        ("app/g", b"Authorization: Bearer " + b"0a" * 16, "a bearer token in /app/g"),
        ("x/site-packages/a.py", HF_TOKEN, "a Hugging Face token in /x/site-packages/a.py"),
        ("app/a.py", b"token = '" + HF_TOKEN + b"'", "a Hugging Face token in /app/a.py"),
        ("app/a.sh", b"https://civitai.com/x?token=" + b"0a" * 16, "a CivitAI token in /app/a.sh"),
        ("app/.env", b"CIVITAI_API_KEY=" + b"0a" * 16, "a CivitAI token in /app/.env"),
        ("app/b", b"rpa_" + b"A1" * 22, "a RunPod key in /app/b"),
        ("app/c", b"ghp_" + b"a1" * 18, "a GitHub token in /app/c"),
        ("app/d", b"..my-own-token-1234..", "the value of CIVITAI_TOKEN in /app/d"),
        ("app/e.safetensors", b"my-own-token-1234", "the value of CIVITAI_TOKEN in /app/e"),
        # across the pieces in which a file is read
        ("app/f", b"x" * ((1 << 20) - 20) + b" " + HF_TOKEN, "a Hugging Face token in /app/f"),
    ],
)
def test_a_secret_in_a_layer_is_caught_and_not_repeated(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    message = failures(verify(make_image(tmp_path, thin((name, content)))))["secrets"]
    assert kind in message
    assert content.decode() not in message or len(content) < 5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("app/a.py", b'HEADER = "-----BEGIN RSA PRIVATE KEY-----"\n'),
        ("app/b.safetensors", HF_TOKEN),
        ("venv/lib/python3.10/site-packages/pkg/tests/key.pem", PRIVATE_KEY),
        ("app/c", b"hf_hub_download(repo_id='a/b')"),
        ("app/d", b"token=" + b"0a" * 20),
        ("app/.gitignore", b""),
    ],
)
def test_what_only_looks_like_a_secret_passes(tmp_path: Path, name: str, content: bytes) -> None:
    assert failures(verify(make_image(tmp_path, thin((name, content))))) == {}


def test_a_secret_in_history_or_environment_is_caught(tmp_path: Path) -> None:
    token = HF_TOKEN.decode()
    message = failures(verify(make_image(tmp_path, env={"HF_TOKEN": token})))["secrets"]
    assert message == "a Hugging Face token in the environment, HF_TOKEN"

    image = make_image(tmp_path)
    config = image.config
    config["history"][3]["created_by"] = f"RUN curl -H 'Authorization: Bearer {token}'"
    image = replace(image, config_json=json.dumps(config).encode())
    message = failures(verify(image))["secrets"]
    assert message == "a Hugging Face token in the history, step 4"

    config["history"][3]["created_by"] = "RUN echo " + PRIVATE_KEY.decode().replace("\n", "\\n")
    message = failures(verify(replace(image, config_json=json.dumps(config).encode())))["secrets"]
    assert message == "a private key in the history, step 4"
    config["history"][3]["created_by"] = "RUN true"
    config["container_config"] = {"Cmd": [token]}
    message = failures(verify(replace(image, config_json=json.dumps(config).encode())))["secrets"]
    assert message == "a Hugging Face token in the config"


def test_the_lock_is_compared(tmp_path: Path) -> None:
    other = make_lock("0" * 64)
    found = failures(verify(make_image(tmp_path), lock=other))
    assert found == {"lock": "checkpoint a is another file"}
    broken = failures(verify(make_image(tmp_path, lock="{")))
    assert broken == {"lock": "the image's lock cannot be read"}

    config = make_image(tmp_path).config
    del config["config"]["Labels"]["bakery.lock"]
    image = replace(make_image(tmp_path), config_json=json.dumps(config).encode())
    assert failures(verify(image)) == {"lock": "the image holds no lock to compare with"}
    assert failures(verify(image, lock=make_lock())) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"contract": 9}', "[" * 100_000])
def test_a_worker_file_of_another_form_is_named(tmp_path: Path, text: str) -> None:
    image = make_image(tmp_path, thin(("opt/bakery/worker.json", text.encode())))
    assert failures(verify(image)) == {"worker-file": "/opt/bakery/worker.json: it cannot be read"}


def test_an_image_without_worker_file_is_named(tmp_path: Path) -> None:
    image = assemble(
        make_base(), layers=[weights_layer(tmp_path)], config=ImageConfig(entrypoint=["/w"])
    )
    assert failures(verify(image)) == {"worker-file": "/opt/bakery/worker.json: there is none"}


def test_a_label_that_lies_about_the_base_hides_nothing(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    config = image.config
    config["config"]["Labels"]["bakery.base.layers"] = " ".join(["sha256:" + "0" * 64] * 4)
    image = replace(image, config_json=json.dumps(config).encode())
    # It goes on to read the base as well, which is no tar here.
    assert "not a sound tar" in failures(verify(image))["digests"]


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(tmp_path)
    monkeypatch.setattr(checks, "MOST_BYTES", 100)
    monkeypatch.setattr(checks, "MOST_LAYERS", 3)
    monkeypatch.setattr(checks, "LARGE_LAYER_BYTES", 100)
    found = {check.name: check for check in verify(image).checks}
    assert (found["size"].severity, found["layers"].severity) == ("error", "error")
    assert "the image has 4 layers; engines take 3" in found["layers"].message
    assert found["largest-layer"].severity == "warning"
    assert PATH in found["largest-layer"].message


def test_every_failed_check_is_in_the_error_with_its_remedy() -> None:
    bad = Check(name="a", severity="error", message="is bad", remedy="do this")
    fine = Check(name="b", severity="warning", message="is odd", remedy="do that")
    verdict = Verdict(image="x", digest="d", checks=(bad, fine))
    with pytest.raises(VerifyError) as caught:
        refuse_bad(verdict)
    assert str(caught.value) == "x: the image is not what it should be:\n  a: is bad\n  → do this"
    refuse_bad(Verdict(image="x", digest="d", checks=(fine,)))


def test_layers_in_several_gzip_members_are_read() -> None:
    tree = tar_of(("a", b"x" * 5000))
    packed = gzip.compress(tree[:3000]) + gzip.compress(tree[3000:])
    facts = scan_layer([packed[:1], packed[1:700], packed[700:]], SCANNER)
    assert (facts.digest, facts.diff_id) == (sha256_digest(packed), sha256_digest(tree))
    assert facts.files[PurePosixPath("/a")].size_bytes == 5000
    with pytest.raises(BuildError, match="ends in the middle"):
        list(gunzipped(iter([packed[:-20]])))


def test_secret_values_are_taken_from_the_environment_by_name() -> None:
    scanner = SecretScanner.from_environment(
        {"HF_TOKEN": "0123456789abcdef", "PATH": "/usr/bin:/bin:/sbin", "X_TOKEN": "short"}
    )
    assert scanner.literals == (("HF_TOKEN", b"0123456789abcdef"),)


def make_documents(folder: Path, packages: list[Package]) -> Layer:
    layer = make_documents_layer(
        worker=make_worker(),
        lock=make_lock(),
        base=make_base(),
        packages=packages,
        layers=[weights_layer(folder), WORKER_LAYER],
        blob=folder / "layers" / "documents.tar.gz",
    )
    return layer.as_layer("documents", kind="documents")


PACKAGES = [
    Package(kind="pypi", name="torch", version="2.1.2", licence="BSD-3"),
    Package(kind="deb", name="libc6", version="2.36-9"),
]


def test_the_documents_are_the_same_for_the_same_inputs(tmp_path: Path) -> None:
    first = make_documents(tmp_path, PACKAGES)
    assert make_documents(tmp_path, PACKAGES[::-1]).digest == first.digest
    assert make_documents(tmp_path, PACKAGES[:1]).digest != first.digest
    assert [path.name for path in (tmp_path / "layers").iterdir()] == ["documents.tar.gz"]


def test_inspect_prints_the_lock_and_the_documents(tmp_path: Path) -> None:
    image = make_image(tmp_path, make_documents(tmp_path, PACKAGES))
    found = inspect_image(image, name="x")
    assert found.lock == make_lock()
    assert found.sbom is not None
    assert count_components(found.sbom) == {"deb": 1, "models": 1, "pypi": 1}
    by_name = {component["name"]: component for component in found.sbom["components"]}
    assert by_name["a"]["hashes"] == [{"alg": "SHA-256", "content": SHA256}]
    assert by_name["a"]["type"] == "machine-learning-model"
    assert by_name["a"]["licenses"] == [{"license": {"name": "openrail"}}]
    assert by_name["a"]["externalReferences"][0]["url"] == "https://civitai.example/a"
    assert by_name["torch"]["purl"] == "pkg:pypi/torch@2.1.2"
    assert by_name["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9"
    assert found.provenance is not None
    dependencies = found.provenance["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"sha256": SHA256} in [each["digest"] for each in dependencies]
    assert found.provenance["subject"][0]["digest"]["sha256"] == image.layers[2].digest[7:]
    assert {SBOM_FILE, PROVENANCE_FILE} == {
        str(path)
        for path in scan_layer(image.layers[-1].content.chunks(), SCANNER).files  # type: ignore[union-attr]
    }
    assert json.loads(json.dumps(found.as_json()))["layers"][-1]["kind"] == "documents"
    assert verify(image).is_good


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        (SBOM_FILE, SHA256, "0" * 64, "the bill of materials does not name checkpoint a"),
        (PROVENANCE_FILE, SHA256, "0" * 64, "the provenance does not name checkpoint a"),
        (PROVENANCE_FILE, '"subject"', '"object"', "one of them cannot be read"),
        (PROVENANCE_FILE, WORKER_LAYER.digest[7:], "0" * 64, "the provenance names other layers"),
        (PROVENANCE_FILE, BASE[7:], "0" * 64, "the provenance names another base than the label"),
        (SBOM_FILE, "{", "[", "one of them cannot be read"),
    ],
)
def test_documents_of_another_image_are_caught(
    tmp_path: Path, file: str, old: str, new: str, reason: str
) -> None:
    labels = {"bakery.lock": make_lock().to_json(), BASE_DIGEST_LABEL: BASE}
    config = ImageConfig(entrypoint=["/w"], labels=labels)
    own = [weights_layer(tmp_path), WORKER_LAYER]
    documents = make_documents(tmp_path, PACKAGES)
    image = assemble(make_base(), layers=[*own, documents], config=config)
    assert [check.severity for check in verify(image).checks if check.name == "documents"] == ["ok"]

    entries = []
    with open_tar(unpacked(documents.content.chunks())) as tar:  # type: ignore[union-attr]
        for member in tar:
            opened = tar.extractfile(member)
            text = opened.read().decode() if opened else ""
            entries.append(
                (
                    member.name,
                    text.replace(
                        *(old, new) if f"/{member.name}" == file else ("", "", 0)
                    ).encode(),
                )
            )
    image = assemble(make_base(), layers=[*own, thin(*entries)], config=config)
    found = failures(verify(image))
    assert list(found) == ["documents"]
    assert reason in found["documents"]
    assert inspect_image(image, name="x").lock == make_lock()


def test_packages_are_read_from_their_own_records() -> None:
    status = (
        "Package: libc6\nStatus: install ok installed\nVersion: 2.36\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    assert list(parse_dpkg_status(status)) == [Package(kind="deb", name="libc6", version="2.36")]
    text = "Name: Pillow_Simd\nVersion: 9\nLicense: UNKNOWN\nClassifier: License :: OSI :: HPND\n\nbody"
    assert parse_metadata(text) == Package(
        kind="pypi", name="pillow-simd", version="9", licence="HPND"
    )
    assert parse_metadata("Version: 1\n") is None
