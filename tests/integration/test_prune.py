"""`bake prune` on the real engine, with a base repository of the test's own."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.errors import ImageNotFound

from bake.console import Console
from bake.image.engine.archive import list_present
from bake.image.engine.docker import Engine
from bake.image.oci.model import LAYERS_LABEL
from bake.image.prune import Stale, find_used, list_images, plan_prune, remove_stale
from bake.plan.state import BuildFolder
from tests.integration.bakery_case import BAKE
from tests.integration.conftest import RUN, run

NAME = f"img-prune-{RUN}"
BASES = f"{NAME}/base"
WORKERS = f"{NAME}/worker"


@pytest.fixture
def entered(engine: dict[str, str]) -> Iterator[Engine]:
    before = dict(os.environ)
    os.environ.update(engine)
    try:
        with Engine(Console(quiet=True)) as entered:
            yield entered
            for image in list_present(entered):
                for tag in image.tags:
                    if tag.startswith(NAME):
                        entered.client.images.remove(tag, force=True)
    finally:
        os.environ.clear()
        os.environ.update(before)


def make_image(engine: Engine, tag: str, *changes: str) -> str:
    """A tiny image of its own under a tag. Returns its id."""
    tree = io.BytesIO()
    with tarfile.open(fileobj=tree, mode="w") as tar:
        entry = tarfile.TarInfo("name")
        entry.size = len(tag)
        tar.addfile(entry, io.BytesIO(tag.encode()))
    repository, _, version = tag.rpartition(":")
    engine.client.api.import_image_from_data(
        tree.getvalue(), repository=repository, tag=version, changes=list(changes)
    )
    return str(engine.client.images.get(tag).id)


def names(engine: Engine) -> set[str]:
    return {image.tag for image in list_images(engine) if image.tag.startswith(NAME)}


def test_unused_bases_and_earlier_images_go_and_nothing_else(
    entered: Engine, tmp_path: Path
) -> None:
    others = names(entered)
    unused, used, busy, twice = (f"{BASES}:{digit * 16}" for digit in "abcd")
    made = {tag: make_image(entered, tag) for tag in (unused, used, busy, twice, f"{BASES}:mine")}
    entered.client.images.get(twice).tag(f"{NAME}/person", "1")
    earlier = make_image(entered, f"{WORKERS}:new", f"LABEL {LAYERS_LABEL}=x")
    entered.client.images.get(earlier).tag(WORKERS, earlier[7:19])
    folder = BuildFolder(tmp_path / "photo")
    folder.write_record("base", {"a": "b"}, {"image": made[used]})
    folder.write_record("load", {}, {"id": "sha256:gone", "reference": f"{WORKERS}:now"})

    def stale() -> list[Stale]:
        """Of this test's images: a bake that was killed may have left something else that is to go."""
        found = find_used(tmp_path, bases=BASES)
        planned = plan_prune(list_images(entered), found, bases=BASES)
        return [each for each in planned if each.image.tag.startswith(NAME)]

    def plan() -> list[str]:
        return [each.image.tag for each in stale()]

    workers = f"{WORKERS}:{earlier[7:19]}"
    assert plan() == [unused, busy, twice, workers]
    with entered.container(busy, run=NAME, command=["/none"]):
        reasons = {each.image.tag: reason for each, reason in remove_stale(entered, stale())}
    assert {tag for tag, reason in reasons.items() if not reason} == {unused, twice, workers}
    assert "container" in reasons[busy]
    assert names(entered) - others == {
        used, busy, f"{BASES}:mine", f"{NAME}/person:1", f"{WORKERS}:new",
    }  # fmt: skip
    assert entered.image_id(made[twice]) is not None
    with pytest.raises(ImageNotFound):
        entered.client.images.get(unused)
    assert plan() == [busy]


def test_a_dry_run_says_what_would_go_and_removes_nothing(
    entered: Engine, engine: dict[str, str], tmp_path: Path
) -> None:
    folder = BuildFolder(tmp_path / "photo")
    folder.write_record("load", {}, {"id": "sha256:gone", "reference": f"{WORKERS}:now"})
    image_id = make_image(entered, f"{WORKERS}:new", f"LABEL {LAYERS_LABEL}=x")
    tag = f"{WORKERS}:{image_id[7:19]}"
    entered.client.images.get(image_id).tag(WORKERS, image_id[7:19])
    ended = run(
        BAKE, "prune", "--dry-run", "--build-dir", tmp_path,
        env={**engine, "BAKE_STORE": str(tmp_path / "store")},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert f"would remove worker {tag} (" in ended.stderr
    assert "0 B of notes on layers" in ended.stderr
    assert tag in names(entered)
