"""What is kept of a layer spares looking through it again, and never makes a bad image pass."""

from __future__ import annotations

import gzip
import json
import random
import re
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from bake.image.final.packages import packages_of_layer
from bake.image.kept import Kept
from bake.image.oci.layers import TreeLayer
from bake.image.oci.model import RAW_LAYER, BytesContent, Descriptor, Image, Layer, sha256_digest
from bake.image.verify import image as verify_module
from bake.image.verify.image import verify_image
from bake.image.verify.scan import LayerFacts, scan_layer, scan_version
from bake.image.verify.secrets import SecretScanner
from bake.image.verify.verdict import Verdict
from bake.secrets import FORMS
from tests.unit.test_verify import (
    CONSOLE,
    CONTENT,
    HF_TOKEN,
    PATH,
    PRIVATE_KEY,
    SCANNER,
    failures,
    make_image,
    tar_of,
    thin,
)


def verify(image: Image, folder: Path, *, scanner: SecretScanner = SCANNER) -> Verdict:
    return verify_image(image, name="x", console=CONSOLE, scanner=scanner, kept=Kept(folder))


def digests_message(verdict: Verdict) -> str:
    return next(check.message for check in verdict.checks if check.name == "digests")


def entry_of(layer: Layer, folder: Path) -> Path:
    return folder / f"{layer.digest[7:]}.facts.gz"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def refuse_to_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(chunks: Iterable[bytes], scanner: SecretScanner) -> LayerFacts:
        raise AssertionError("a layer was looked through again")

    monkeypatch.setattr(verify_module, "scan_layer", refuse)


def test_an_unchanged_layer_is_hashed_only(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(tmp_path)
    first = verify(image, kept)
    assert "looked through before" not in digests_message(first)
    refuse_to_scan(monkeypatch)
    second = verify(image, kept)
    assert digests_message(second).endswith("say, 2 of them looked through before")
    assert second.read_bytes == first.read_bytes
    assert [check for check in second.checks if check.name != "digests"] == [
        check for check in first.checks if check.name != "digests"
    ]


@pytest.mark.parametrize(
    ("layer", "name", "reason"),
    [
        (thin(("app/key.pem", PRIVATE_KEY)), "secrets", "a private key in /app/key.pem"),
        (thin(("app/.git/HEAD", b"ref")), "secrets", "a git repository in /app/.git/HEAD"),
        (thin(("models/a.safetensors", CONTENT)), "untouched checkpoint a", "writes it again"),
        (thin(("models/.wh.a.safetensors", b"")), "untouched checkpoint a", f"removes {PATH}"),
        (thin(("models/.wh..wh..opq", b"")), "untouched checkpoint a", "hides what was in"),
    ],
)
def test_a_bad_layer_is_caught_again_from_what_is_kept(
    tmp_path: Path,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
    layer: Layer,
    name: str,
    reason: str,
) -> None:
    image = make_image(tmp_path, layer)
    first = failures(verify(image, kept))
    refuse_to_scan(monkeypatch)
    again = failures(verify(image, kept))
    assert again == first
    assert name in again
    assert reason in again[name]


def test_bytes_that_have_changed_are_caught_although_their_digest_is_known(
    tmp_path: Path, kept: Path
) -> None:
    image = make_image(tmp_path)
    assert verify(image, kept).is_good
    (tmp_path / "a").write_bytes(CONTENT.replace(b"w", b"v", 1))
    found = failures(verify(image, kept))
    assert list(found) == ["digests", "weights checkpoint a"]
    assert f"{image.layers[2].digest} holds sha256:" in found["digests"]


def foreign(good: Path, bad: Path) -> None:
    bad.write_bytes(good.read_bytes())


def forged(good: Path, bad: Path) -> None:
    """The facts of another layer under the right key, as no writer of ours leaves them."""
    value = json.loads(gzip.decompress(good.read_bytes()))["value"]
    data = {**json.loads(gzip.decompress(bad.read_bytes())), "value": value}
    bad.write_bytes(gzip.compress(json.dumps(data).encode()))


def cut(good: Path, bad: Path) -> None:
    bad.write_bytes(bad.read_bytes()[:-20])


def empty(good: Path, bad: Path) -> None:
    bad.write_bytes(b"")


def no_facts(good: Path, bad: Path) -> None:
    bad.write_bytes(gzip.compress(b'["not", "facts"]'))


@pytest.mark.parametrize("damage", [foreign, forged, cut, empty, no_facts])
def test_an_entry_that_is_wrong_does_not_make_a_bad_layer_pass(
    tmp_path: Path, kept: Path, damage: Callable[[Path, Path], None]
) -> None:
    good, bad = thin(("app/a", b"fine")), thin(("app/key.pem", PRIVATE_KEY))
    assert verify(make_image(tmp_path, good), kept).is_good
    image = make_image(tmp_path, bad)
    first = failures(verify(image, kept))
    damage(entry_of(good, kept), entry_of(bad, kept))
    again = verify(image, kept)
    assert failures(again) == first == {"secrets": "a private key in /app/key.pem"}
    assert digests_message(again).endswith("say, 2 of them looked through before")
    kinds = {path.name.partition(".")[2] for path in kept.iterdir()}
    assert kinds == {"facts.gz", "findings.gz"}


def test_what_is_looked_for_decides_whether_an_entry_counts(tmp_path: Path, kept: Path) -> None:
    image = make_image(tmp_path, thin(("app/a", b"a-new-kind-of-token and my-second-token-1234")))
    assert verify(image, kept).is_good
    form = replace(FORMS[0], kind="a new token", form=re.compile(b"a-new-kind"), before=None)
    more = replace(SCANNER, forms=(*FORMS, form))
    assert failures(verify(image, kept, scanner=more)) == {"secrets": "a new token in /app/a"}
    own = replace(SCANNER, literals=(("X_TOKEN", b"my-second-token-1234"),))
    assert failures(verify(image, kept, scanner=own)) == {
        "secrets": "the value of X_TOKEN in /app/a"
    }
    versions = {scan_version(scanner) for scanner in (SCANNER, more, own, SecretScanner())}
    assert len(versions) == 4
    for path in kept.iterdir():
        assert b"my-second-token" not in gzip.decompress(path.read_bytes())


def test_reading_nothing_looks_through_everything_again(tmp_path: Path, kept: Path) -> None:
    image = make_image(tmp_path)
    verify(image, kept)
    anew = verify_image(
        image, name="x", console=CONSOLE, scanner=SCANNER, kept=Kept(kept, reads=False)
    )
    assert "looked through before" not in digests_message(anew)
    assert anew.is_good


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert verify(make_image(tmp_path), tmp_path / "file").is_good


def test_facts_survive_being_written_down() -> None:
    tree = tar_of(("opt/bakery/worker.json", b"{}"), ("x/.wh.y", b""), ("app/a", HF_TOKEN))
    facts = scan_layer([tree], SCANNER)
    assert LayerFacts.from_json(json.loads(json.dumps(facts.as_json()))) == facts
    assert facts.findings


def test_a_name_that_is_no_utf8_is_kept_too(tmp_path: Path, kept: Path) -> None:
    named = tarfile.TarInfo("caf\xe9")
    tree = named.tobuf(tarfile.GNU_FORMAT, "latin-1") + b"\0" * 1024
    layer = Layer(
        descriptor=Descriptor(
            media_type=RAW_LAYER, digest=sha256_digest(tree), size_bytes=len(tree)
        ),
        diff_id=sha256_digest(tree),
        content=BytesContent(data=tree),
    )
    image = make_image(tmp_path, layer)
    assert verify(image, kept).is_good
    assert "3 of them looked through before" in digests_message(verify(image, kept))


def test_nothing_behind_a_tars_end_goes_unseen() -> None:
    sound = tar_of(("app/a", b"x" * 700))
    for tail in (HF_TOKEN, b"\0" * 1024 + HF_TOKEN):
        facts = scan_layer([sound + tail], SCANNER)
        assert [finding.where for finding in facts.findings] == ["the layer, behind its tar"]
    broken = bytearray(tar_of(("app/a", b"x"), ("app/b", HF_TOKEN)))
    broken[1024 + 150] ^= 1  # the second header's checksum: tarfile takes that for the end
    assert scan_layer([bytes(broken)], SCANNER).findings
    assert scan_layer([sound], SCANNER).findings == ()


def test_a_path_is_taken_as_an_engine_unpacks_it() -> None:
    facts = scan_layer([tar_of(("x/../models/./a", b"x"), ("./b", b""))], SCANNER)
    assert set(facts.files) == {PurePosixPath("/models/a"), PurePosixPath("/b")}


# What the scanner must find, in the plainest form: each tried at every byte, however slow that is.
PLAIN = {
    "a Hugging Face token": rb"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{30,}",
    "a CivitAI token": rb"(?:civitai[^\s\"']{0,200}|[?&])token=[0-9a-f]{32}(?![0-9a-f])"
    rb"|CIVITAI_(?:API_)?(?:TOKEN|KEY)[\"']?\s*[=:]\s*[\"']?[0-9a-f]{32}(?![0-9a-f])",
    "a RunPod key": rb"(?<![A-Za-z0-9_])rpa_[A-Z0-9]{40,}",
    "a GitHub token": rb"(?<![A-Za-z0-9_])(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})",
    "an AWS key": rb"(?<![A-Z0-9])AKIA[A-Z2-7]{16}(?![A-Z0-9])",
    "a bearer token": rb"Bearer\s+[0-9a-f]{32}(?![0-9a-f])",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?:\\+[rn]|\s){1,80}"
    rb"(?:[A-Za-z-]+: [^\n]{0,200}\n\s{0,80}){0,8}"
    rb"(?:[A-Za-z0-9+/]{40,}|[A-Za-z0-9+/=\\\s]{8,400}-----END )",
}
PIECES = [
    b"hf_", b"rpa_", b"ghp_", b"ghs_", b"github_pat_", b"AKIA", b"civitai", b"token=", b"?", b"&", b"_",
    b"CIVITAI_API_KEY", b"CIVITAI_TOKEN", b"=", b": ", b'"', b" ", b"\n", b"x", b"A", b"7", b"/", b"Az09" * 9,
    b"0a" * 16, b"A" * 16, b"A2" * 20, b"-----BEGIN ", b"-----BEGIN EC PRIVATE KEY-----\n", b"?token=", b"RSA ", b"PRIVATE KEY-----", b"\\n", b"Key: v\n", b"x" * 210, b"Bearer ", b"-----END ",
]  # fmt: skip


def test_the_quick_search_finds_what_the_plain_one_finds() -> None:
    chance = random.Random(7)
    patterns = {kind: re.compile(pattern) for kind, pattern in PLAIN.items()}
    scanner = SecretScanner()
    seen = dict.fromkeys(PLAIN, 0)
    for _ in range(6000):
        data = b"".join(chance.choices(PIECES, k=chance.randint(1, 9)))
        expected = {kind for kind, pattern in patterns.items() if pattern.search(data)}
        assert {finding.kind for finding in scanner.look_at(data, where="x")} == expected, data
        for kind in expected:
            seen[kind] += 1
    assert set(PLAIN) == {form.kind for form in FORMS}
    assert min(seen.values()) >= 5, seen


def test_packages_of_a_layer_are_read_once(tmp_path: Path) -> None:
    tree = tar_of(("venv/a-1.dist-info/METADATA", b"Name: a\nVersion: 1\n"))
    blob = tmp_path / "blob"
    blob.write_bytes(tree)
    digest = sha256_digest(tree)
    layer = TreeLayer(blob=blob, digest=digest, diff_id=digest, size_bytes=len(tree))
    kept = Kept(tmp_path / "kept")
    found = packages_of_layer(layer, kept=kept)
    assert [(each.name, each.version) for each in found] == [("a", "1")]
    blob.unlink()
    assert packages_of_layer(layer, kept=kept) == found
