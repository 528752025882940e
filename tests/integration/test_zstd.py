"""Images under zstd: engines with either store and other tools take them, and a base is packed once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bake.console import Console
from bake.errors import BuildError, PushError
from bake.image.engine.load import load_image
from bake.image.kept import Kept
from bake.image.oci.model import (
    RAW_LAYER,
    ZSTD_LAYER,
    Content,
    Image,
    Layer,
    canonical_json,
)
from bake.image.oci.reference import parse_reference
from bake.image.registry.client import RegistryClient, RegistryContent
from bake.image.registry.credentials import Credentials
from bake.image.registry.packed import tag_of
from bake.image.registry.push import PushReport, push_image
from bake.image.rewrite import _Packing, push_rewritten
from bake.image.saved import save_image
from bake.image.source import read_from_engine, read_from_registry
from bake.image.verify.image import verify_image
from bake.image.verify.secrets import SecretScanner
from bake.plan.state import BuildFolder
from tests.integration.conftest import ROOT, run
from tests.integration.registry_case import QUICK
from tests.integration.test_load import (  # noqa: F401  # one is a fixture
    CONTENT,
    NAME,
    PATH,
    Running,
    make_image,
    running,
    write_base_tree,
)
from tests.standins.registry import Action, Answer, Seen, faulty_registry
from tests.unit.test_rewrite import base_of, gzipped
from tests.unit.test_verify import tar_of

CONSOLE = Console(quiet=True)


def push(image: Image, reference: str, folder: Path, *, kept: Path | None = None) -> PushReport:
    """As a machine does that remembers what is in `kept`; by default one that remembers nothing."""
    folder.mkdir(exist_ok=True)
    memory = Kept(kept or folder / "kept")
    host = parse_reference(reference).host
    client = RegistryClient(host, options=QUICK, credentials=Credentials())
    return push_rewritten(
        image, reference, console=CONSOLE, folder=folder, kept=memory, client=client
    )


def read(reference: str) -> Image:
    target = parse_reference(reference)
    client = RegistryClient(target.host, options=QUICK, credentials=Credentials())
    return read_from_registry(client, target)


def is_good(image: Image) -> bool:
    verdict = verify_image(image, name="x", console=CONSOLE, scanner=SecretScanner())
    assert verdict.is_good, verdict.as_json()
    severities = {check.name: check.severity for check in verdict.checks}
    assert severities["digests"] == severities.get("base", "ok") == "ok", verdict.as_json()
    return True


def hows(report: PushReport, kind: str = "base") -> list[str]:
    return [layer.how for layer in report.layers if layer.kind == kind]


def base_in_registry(image: Image, reference: str) -> Image:
    """The base of an image, pushed with gzipped layers, as a manifest names it by reference."""
    push_image(image, reference, console=CONSOLE)
    return read(reference)


@pytest.fixture
def gzip_base(registry: str, repository: str, tmp_path: Path) -> Image:
    """A base in a repository of its own, with two gzipped layers."""
    write_base_tree(tmp_path / "base.tar")
    # Its own first, so that no engine has unpacked what lies above.
    trees = tar_of(("run", repository.encode())), (tmp_path / "base.tar").read_bytes()
    base = base_of(*map(gzipped, trees))
    return base_in_registry(base, f"{registry}/{repository}-base:1")


def test_it_is_pulled_run_and_verified_and_has_the_same_config(
    running: Running,  # noqa: F811
    gzip_base: Image,
    registry: str,
    repository: str,
    tmp_path: Path,
) -> None:
    image = make_image(gzip_base, tmp_path / "1", thin=os.urandom(8))
    reference = f"{registry}/{repository}:1"
    report = push(image, reference, tmp_path / "packed")
    there = read(reference)
    assert (there.digest, there.config_json) == (report.digest, image.config_json)
    assert report.assembled == image.digest != report.digest
    assert {x.kind: x.descriptor.media_type for x in there.layers} == {
        "base": ZSTD_LAYER, "weights": RAW_LAYER, "thin": ZSTD_LAYER,
    }  # fmt: skip
    assert is_good(there)

    pulled = running.docker("pull", "--quiet", reference)
    assert pulled.returncode == 0, pulled.stderr
    assert running.output(reference, PATH) == CONTENT.decode()
    found = json.loads(running.docker("image", "inspect", reference).stdout)[0]
    assert found["RepoDigests"] == [f"{reference.removesuffix(':1')}@{report.digest}"]
    assert is_good(read_from_engine(running.engine, reference))
    running.engine.client.images.remove(reference, force=True)


def test_what_an_engine_has_unpacked_from_other_blobs_is_not_read_out_of_it(
    running: Running,  # noqa: F811
    registry: str,
    repository: str,
    tmp_path: Path,
) -> None:
    """With the containerd store a pull fetches no layer of which the same tree is there; a save lacks it then."""
    base = read_from_engine(running.engine, running.base)
    image = make_image(base, tmp_path / "1", thin=os.urandom(8))
    reference = f"{registry}/{repository}:1"
    push(image, reference, tmp_path / "packed")
    assert running.docker("pull", "--quiet", reference).returncode == 0
    assert running.output(reference, PATH) == CONTENT.decode()
    pulled = read_from_engine(running.engine, reference)
    if running.has_containerd_store:
        with pytest.raises(BuildError) as caught:
            is_good(pulled)
        assert "the engine no longer holds" in str(caught.value)
        assert "it may have unpacked the layer from another image's blob" in str(caught.value)
    else:
        assert is_good(pulled)
    running.engine.client.images.remove(reference, force=True)


def test_what_was_pulled_under_zstd_does_not_stand_for_the_gzip_that_labels_name(
    running: Running,  # noqa: F811
    registry: str,
    tmp_path: Path,
) -> None:
    """With the containerd store a layer that was left out would be missed by `docker save`."""
    base = read_from_engine(running.engine, running.base)
    image = make_image(base, tmp_path / "1", thin=os.urandom(8))
    own = f"{registry}/img-test/{NAME}-own:1"
    push_image(image, own, console=CONSOLE)
    reference = f"{registry}/img-test/{NAME}-pulled:1"
    push(image, reference, tmp_path / "packed")
    assert running.docker("pull", "--quiet", reference).returncode == 0

    with RegistryClient(registry, options=QUICK, credentials=Credentials()) as client:
        found = read_from_registry(client, parse_reference(own))
        edited = make_image(
            replace(base, layers=found.layers[: len(base.layers)]), tmp_path / "2", thin=b"edited"
        )
        load_image(edited, running.engine, f"{NAME}:edited")
    saved = running.docker("save", "--output", str(tmp_path / "saved.tar"), f"{NAME}:edited")
    assert saved.returncode == 0, saved.stderr
    assert running.output(f"{NAME}:edited", "/opt/bakery/thin") == "edited"


def test_a_base_is_packed_once_and_mounted_for_another_model_on_another_machine(
    gzip_base: Image, registry: str, repository: str, tmp_path: Path
) -> None:
    first = make_image(gzip_base, tmp_path / "1", thin=os.urandom(8))
    report = push(first, f"{registry}/{repository}-a:1", tmp_path / "a")
    assert hows(report) == ["uploaded"] * len(gzip_base.layers)

    again = push(first, f"{registry}/{repository}-a:2", tmp_path / "b")
    assert (again.digest, again.sent_bytes) == (report.digest, 0)

    second = make_image(gzip_base, tmp_path / "2", thin=os.urandom(8))
    mounted = push(second, f"{registry}/{repository}-c:1", tmp_path / "c")
    assert hows(mounted) == ["mounted"] * len(gzip_base.layers)
    base_layers = [x.digest for x in report.layers if x.kind == "base"]
    assert [x.digest for x in mounted.layers if x.kind == "base"] == base_layers
    assert is_good(read(f"{registry}/{repository}-c:1"))

    # what a registry keeps is an image by itself
    kept = read(f"{registry}/{repository}-base:{tag_of(gzip_base.layers[0])}")
    assert [x.digest for x in kept.layers] == base_layers[:1]
    assert kept.layers[0].diff_id == gzip_base.layers[0].diff_id


def test_a_machine_remembers_what_it_packed_where_the_base_is_in_no_registry(
    gzip_base: Image, registry: str, repository: str, tmp_path: Path
) -> None:
    at_hand = replace(
        gzip_base,
        layers=tuple(
            replace(layer, content=_Elsewhere(content=layer.content)) for layer in gzip_base.layers
        ),
    )
    memory = tmp_path / "memory"
    first = make_image(at_hand, tmp_path / "1", thin=os.urandom(8))
    report = push(first, f"{registry}/{repository}-a:1", tmp_path / "a", kept=memory)
    assert hows(report) == ["uploaded"] * len(gzip_base.layers)
    second = make_image(at_hand, tmp_path / "2", thin=os.urandom(8))
    mounted = push(second, f"{registry}/{repository}-b:1", tmp_path / "b", kept=memory)
    assert hows(mounted) == ["mounted"] * len(gzip_base.layers)
    # the second repository has its tags now: another machine finds them there
    third = make_image(at_hand, tmp_path / "3", thin=os.urandom(8))
    found = push(third, f"{registry}/{repository}-b:2", tmp_path / "c")
    assert hows(found) == ["present"] * len(gzip_base.layers)


class _Elsewhere:
    """A registry's bytes, as a content of no registry's."""

    def __init__(self, *, content: object) -> None:
        assert isinstance(content, RegistryContent)
        self._content = content
        self.chunks = content.chunks

    def describe(self) -> dict[str, str]:
        raise TypeError


def test_a_base_whose_repository_may_not_be_written_to_is_kept_beside_the_image(
    gzip_base: Image, registry: str, repository: str, tmp_path: Path
) -> None:
    def rule(seen: Seen) -> Action:
        if seen.method in ("PUT", "POST", "PATCH") and f"/{repository}-base/" in seen.path:
            return Answer(status=403)
        return None

    with faulty_registry(registry, rule) as proxy:
        base = replace(
            gzip_base,
            layers=tuple(
                replace(layer, content=replace(layer.content, host=proxy.host, client=None))  # type: ignore[type-var]
                for layer in gzip_base.layers
            ),
        )
        image = make_image(base, tmp_path / "1", thin=os.urandom(8))
        report = push(image, f"{proxy.host}/{repository}-a:1", tmp_path / "a")
        tag = tag_of(gzip_base.layers[0])
        assert read(f"{registry}/{repository}-a:{tag}").layers[0].digest == report.layers[0].digest
        again = push(image, f"{proxy.host}/{repository}-a:2", tmp_path / "b")
    assert (again.digest, again.sent_bytes) == (report.digest, 0)


def test_a_push_that_broke_has_not_packed_in_vain(
    gzip_base: Image,
    registry: str,
    repository: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What has arrived is neither packed nor sent again, on the machine that packed it."""
    image = make_image(gzip_base, tmp_path / "1", thin=os.urandom(8))
    memory = tmp_path / "memory"

    def rule(seen: Seen) -> Action:
        return Answer(status=503) if seen.method == "PUT" and "/manifests/" in seen.path else None

    with faulty_registry(registry, rule) as proxy, pytest.raises(PushError, match="503"):
        push(image, f"{proxy.host}/{repository}-a:1", tmp_path / "a", kept=memory)

    packed: list[str] = []
    pack = _Packing._pack

    def note(self: _Packing, layer: Layer, content: Content) -> Layer:
        packed.append(layer.digest)
        return pack(self, layer, content)

    monkeypatch.setattr(_Packing, "_pack", note)
    report = push(image, f"{registry}/{repository}-a:1", tmp_path / "b", kept=memory)
    assert not packed
    assert {layer.how for layer in report.layers} == {"present"}
    assert is_good(read(f"{registry}/{repository}-a:1"))


@pytest.mark.parametrize("status", [400, 415])
def test_a_registry_that_takes_no_zstd_is_told_from_one_that_is_ill(
    gzip_base: Image, registry: str, repository: str, tmp_path: Path, status: int
) -> None:
    image = make_image(gzip_base, tmp_path / "1", thin=os.urandom(8))
    body = json.dumps({"errors": [{"code": "MANIFEST_INVALID"}]}).encode()

    def rule(seen: Seen) -> Action:
        is_image = seen.method == "PUT" and "/manifests/" in seen.path
        return Answer(status=status, body=body) if is_image else None

    with faulty_registry(registry, rule) as proxy:
        with pytest.raises(PushError) as caught:
            push(image, f"{proxy.host}/{repository}-a:1", tmp_path / "a")
        assert f"({status} MANIFEST_INVALID): perhaps it takes no layers under zstd" in str(
            caught.value
        )
        assert "write compression: gzip into the manifest" in str(caught.value.hint)
        client = RegistryClient(proxy.host, options=QUICK, credentials=Credentials())
        with pytest.raises(PushError) as caught:
            push_image(image, f"{proxy.host}/{repository}-a:1", console=CONSOLE, client=client)
        assert "perhaps" not in str(caught.value)


def test_a_tag_that_points_at_something_else_is_not_believed(
    gzip_base: Image, registry: str, repository: str, tmp_path: Path
) -> None:
    tag = tag_of(gzip_base.layers[0])
    push_image(gzip_base, f"{registry}/{repository}-base:{tag}", console=CONSOLE)
    image = make_image(gzip_base, tmp_path / "1", thin=os.urandom(8))
    report = push(image, f"{registry}/{repository}-a:1", tmp_path / "a")
    assert hows(report) == ["uploaded"] * len(gzip_base.layers)
    assert is_good(read(f"{registry}/{repository}-a:1"))


def test_a_tag_of_another_tree_is_found_out_and_harmless_once_it_is_deleted(
    gzip_base: Image, registry: str, repository: str, tmp_path: Path
) -> None:
    """Whoever may write to the repository can make one; no machine keeps what it says."""
    memory = tmp_path / "memory"
    image = make_image(gzip_base, tmp_path / "1", thin=os.urandom(8))
    lie, truth = gzip_base.layers[1], gzip_base.layers[0]
    layer = replace(lie, descriptor=replace(lie.descriptor, media_type=ZSTD_LAYER))
    annotations = {"bakery.layer.diff-id": truth.diff_id}
    entry = replace(layer.descriptor, annotations=annotations).as_json()
    base = base_of(lie)
    forged = replace(
        base, manifest_json=canonical_json({**base.manifest, "layers": [entry]}), layers=(layer,)
    )
    tag = parse_reference(f"{registry}/{repository}-base:{tag_of(truth)}")
    push_image(forged, str(tag), console=CONSOLE)
    push(image, f"{registry}/{repository}-a:1", tmp_path / "a", kept=memory)

    there = read(f"{registry}/{repository}-a:1")
    verdict = verify_image(there, name="x", console=CONSOLE, scanner=SecretScanner())
    (found,) = (check for check in verdict.checks if check.name == "base")
    assert found.severity == "error"
    assert f"another tree than the config says in {lie.digest}" in found.message
    assert f"what is under the tag {tag_of(truth)} is not what it should be" in found.remedy

    with RegistryClient(registry, options=QUICK, credentials=Credentials()) as client:
        path = f"/v2/{tag.repository}/manifests/{client.manifest_digest(tag)}"
        client.request("give up upload", "DELETE", path, scopes=())
    push(image, f"{registry}/{repository}-a:2", tmp_path / "b", kept=memory)
    assert is_good(read(f"{registry}/{repository}-a:2"))


MANIFEST = """\
name: demo
family: demo
checkpoint: file:a.safetensors
warmup: {{prompt: x}}
compression: zstd
image: {repository}
"""


def bake(*arguments: str, env: Mapping[str, str]) -> str:
    ended = run(ROOT / ".venv" / "bin" / "bake", *arguments, env=env)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_commands_know_the_digest_that_was_pushed(
    gzip_base: Image, engine: dict[str, str], registry: str, repository: str, tmp_path: Path
) -> None:
    folder = tmp_path / "build" / "demo"
    folder.parent.mkdir()
    image = make_image(gzip_base, folder, thin=os.urandom(8))
    save_image(image, folder)
    manifest = tmp_path / "demo.yaml"
    manifest.write_text(MANIFEST.format(repository=f"{registry}/{repository}"))
    env = {**engine, "BAKE_STORE": str(tmp_path / "store")}
    where = ("--build-dir", str(folder.parent))

    early = run(ROOT / ".venv/bin/bake", "sign", str(manifest), *where, env=env)
    assert early.returncode == 5
    assert "it was not pushed from here yet, and a push packs its layers anew" in early.stderr
    assert f"bake push {manifest}" in early.stderr

    lines = bake("push", str(manifest), *where, env=env).splitlines()
    reference = lines[-1]
    assert reference.partition("@")[0] == f"{registry}/{repository}:{image.digest[7:19]}"
    digest = reference.partition("@")[2]
    record = BuildFolder(folder).record("push")
    assert record is not None
    assert record.document["compression"] == "zstd"
    assert (record.result["digest"], record.result["assembled"]) == (digest, image.digest)
    assert not list((folder / "tmp").glob("*")), "what was packed is still there"

    verdict = json.loads(
        bake("verify", reference, "--registry", "--json", env=env).splitlines()[-1]
    )
    assert (verdict["verdict"], verdict["digest"]) == ("good", digest)
    assert f"digest   {digest}" in bake("inspect", reference, env=env)

    key = tmp_path / "key.pem"
    made = run("openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key)
    assert made.returncode == 0, made.stderr
    public = tmp_path / "key.pub"
    run("openssl", "ec", "-in", key, "-pubout", "-out", public)
    assert reference.partition("@")[2] in bake(
        "sign", str(manifest), "--key", str(key), *where, env=env
    )
    bake("verify", "--signature", reference, "--key", str(public), env=env)

    layout = f"oci:{tmp_path / 'layout'}:a"
    assert digest in bake("push", str(manifest), layout, *where, env=env)
    assert "is good" in bake("verify", layout, env=env)


def test_skopeo_copies_it_as_it_is(
    gzip_base: Image, registry: str, repository: str, tmp_path: Path
) -> None:
    """Where it is installed, as in CI; else the copy is one by our own writer."""
    image = make_image(gzip_base, tmp_path / "1", thin=os.urandom(8))
    reference = f"{registry}/{repository}-a:1"
    report = push(image, reference, tmp_path / "a")
    if not shutil.which("skopeo"):
        push_image(read(reference), f"{registry}/{repository}-copy:1", console=CONSOLE)
    else:
        for source, target in (
            (f"docker://{reference}", f"oci:{tmp_path}/layout:1"),
            (f"oci:{tmp_path}/layout:1", f"docker://{registry}/{repository}-copy:1"),
        ):
            copied = run(
                "skopeo", "copy", "--preserve-digests", "--src-tls-verify=false",
                "--dest-tls-verify=false", source, target,
            )  # fmt: skip
            assert copied.returncode == 0, copied.stderr
    copy = read(f"{registry}/{repository}-copy:1")
    assert copy.digest == report.digest
    assert is_good(copy)
