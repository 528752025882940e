"""What `bake prune` takes for ours, and for unused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from bake.cli import cli
from bake.errors import ManifestError
from bake.image.kept import Kept
from bake.image.prune import LocalImage, Used, find_used, plan_prune
from bake.plan.state import BuildFolder, key_of

ID = "sha256:" + "0123456789abcdef" * 4
KEY = "0123456789abcdef"


def image(tag: str, *, image_id: str = ID, is_worker: bool = False) -> LocalImage:
    return LocalImage(id=image_id, tag=tag, size_bytes=1, is_worker=is_worker)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (image(f"bakery.local/base:{KEY}"), "base"),
        (image("ghcr.io/me/photo:0123456789ab", is_worker=True), "worker"),
        (image("127.0.0.1:4711/bakery-probe/config:1"), "probe"),
        # others', or named by people
        (image("bakery.local/base:mine"), None),
        (image(f"bakery.local/base-webui:{KEY}"), None),
        (image(f"example.com/bakery.local/base:{KEY}"), None),
        (image("bakery.local/python:slim"), None),
        (image("ghcr.io/me/photo:1.0", is_worker=True), None),
        (image("ghcr.io/me/photo:0123456789ab"), None),
        (image("ghcr.io/me/photo:fedcba987654", is_worker=True), None),
        (image("ghcr.io/other/photo:0123456789ab", is_worker=True), None),
    ],
)
def test_only_what_bake_named_is_removed(found: LocalImage, kind: str | None) -> None:
    stale = plan_prune([found], Used(repositories=frozenset({"ghcr.io/me/photo"})))
    assert [each.kind for each in stale] == ([kind] if kind else [])


def test_a_worker_of_the_classic_store_is_known_by_the_record_of_its_load(tmp_path: Path) -> None:
    """There an image's id is its config's digest; its tag is that of the manifest, which the engine lost."""
    other = "sha256:" + "f" * 64
    named = {"photo:aaaaaaaaaaaa": ID, "photo:bbbbbbbbbbbb": other, "photo:cccccccccccc": ID}
    result = {"id": other, "reference": "photo:bbbbbbbbbbbb", "named": named}
    BuildFolder(tmp_path / "photo").write_record("load", {}, result)
    used = find_used(tmp_path)
    stale = plan_prune(
        [
            image("photo:aaaaaaaaaaaa", is_worker=True),
            image("photo:bbbbbbbbbbbb", image_id=other, is_worker=True),  # the folder's own
            image("photo:cccccccccccc", image_id="sha256:" + "0" * 64, is_worker=True),  # another's
            image("photo:dddddddddddd", is_worker=True),  # a person's, or another machine's
            image("photo:aaaaaaaaaaaa"),
        ],
        used,
    )
    assert [each.image.tag for each in stale] == ["photo:aaaaaaaaaaaa"]
    BuildFolder(tmp_path / "photo").write_record("load", {}, {**result, "named": "broken"})
    assert find_used(tmp_path).loaded == {}


def test_what_a_build_folder_refers_to_is_used(tmp_path: Path) -> None:
    document = {"dockerfile": "x"}
    folder = BuildFolder(tmp_path / "photo")
    folder.write_record("base", document, {"image": "sha256:base"})
    folder.write_record("load", {}, {"id": "sha256:id", "reference": "localhost:5000/photo:1"})
    content = {"from": "engine", "image": "sha256:older", "member": "x"}
    layers = [{"content": content}, {"content": None}, {"content": {"from": "file", "path": "x"}}]
    (tmp_path / "photo" / "image.json").write_text(json.dumps({"layers": layers}))
    BuildFolder(tmp_path / "empty").root.mkdir()
    (tmp_path / "empty" / "image.json").write_text("[broken")
    used = find_used(tmp_path)
    assert used.ids == {"sha256:base", "sha256:id", "sha256:older"}
    assert used.tags == {f"bakery.local/base:{key_of(document)[:16]}", "localhost:5000/photo:1"}
    assert used.repositories == {"localhost:5000/photo"}
    for kept in (
        image(f"bakery.local/base:{KEY}", image_id="sha256:older"),
        image(f"bakery.local/base:{key_of(document)[:16]}"),
    ):
        assert plan_prune([kept], used) == []


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    arguments = ["prune", "--build-dir", str(tmp_path / "none")]
    with pytest.raises(ManifestError) as caught:
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "so every base would count as unused" in str(caught.value)


def test_notes_that_were_not_read_for_long_go(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for digit in "ab":
        kept.write("facts", f"sha256:{digit * 64}", "1", {})
        os.utime(tmp_path / f"{digit * 64}.facts.gz", (0, 0))
    assert kept.read("facts", "sha256:" + "a" * 64, "1", lambda data: (data,)) == ({},)
    assert kept.remove_unused(3600, dry_run=True) > 0
    assert len(list(tmp_path.iterdir())) == 2
    kept.remove_unused(3600)
    assert [path.name for path in tmp_path.iterdir()] == [f"{'a' * 64}.facts.gz"]
