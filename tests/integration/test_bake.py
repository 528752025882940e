"""The main job, on the real engine: the demo from nothing, again, killed at every step, changed."""

import json
import re
import shutil
import signal
import tarfile
import time
from pathlib import Path

import pytest
from PIL import Image

from bake.image.layout import read_from_layout
from demo.webui.options import DEFAULTS
from tests.integration.bakery_case import (
    BAKE,
    REPOSITORY,
    Bakery,
    Events,
    began,
    copy_build,
    digest_of,
    dominant,
    draw,
    make_bakery,
)
from tests.integration.conftest import ROOT, need_program, run
from tests.integration.registry_case import running_registry

STEPS = ["base", "warmup", "environment", "runtime", "assemble", "load", "verify"]


@pytest.fixture(scope="module")
def pictures(
    bakery: Bakery, baked: Events, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    reference = next(event["reference"] for event in baked if event["event"] == "image")
    folder = tmp_path_factory.mktemp("pictures")
    circle, square = "a red circle on a white background", "a blue square on a white background"
    return {
        "circle": draw(bakery, reference, circle, folder / "1"),
        "again": draw(bakery, reference, circle, folder / "2"),
        "square": draw(bakery, reference, square, folder / "3"),
    }


def test_the_first_bake_runs_every_step(baked: Events, bakery: Bakery) -> None:
    # Sources that publish no digest are pinned by bringing them into the store, so nothing is fetched.
    assert [step for step in began(baked) if not step.startswith("pin ")] == ["lock", *STEPS]
    assert bakery.containers() == ""
    assert not (bakery.build / "demo" / "tmp").exists()
    report = json.loads((bakery.build / "demo" / "report.json").read_text())
    assert report["digest"] == digest_of(baked)
    assert report["warmup"]["device"] == "cpu"
    config = next((bakery.build / "demo" / "harvest").rglob("config.json"))
    assert json.loads(config.read_text()).keys() == DEFAULTS.keys()
    picture = Image.open(bakery.build / "demo" / "picture.png")
    assert picture.size == (512, 512)


def test_the_worker_s_environment_is_thin(baked: Events, bakery: Bakery) -> None:
    layer = bakery.build / "demo" / "layers" / "environment.tar.gz"
    assert layer.stat().st_size < 25_000_000
    with tarfile.open(layer) as tar:
        assert sum(member.size for member in tar) < 70_000_000


def test_a_red_circle_is_red(pictures: dict[str, bytes]) -> None:
    red, green, blue = dominant(pictures["circle"], at=(0.5, 0.5))
    assert red > 150
    assert green < 110
    assert blue < 110
    assert min(dominant(pictures["circle"], at=(0.04, 0.04))) > 200


def test_a_blue_square_is_blue(pictures: dict[str, bytes]) -> None:
    red, green, blue = dominant(pictures["square"], at=(0.5, 0.5))
    assert blue > 150
    assert red < 110
    assert green < 150


def test_the_same_seed_gives_the_same_bytes(pictures: dict[str, bytes]) -> None:
    assert pictures["circle"] == pictures["again"]


def test_nothing_changed_means_nothing_runs(baked: Events, bakery: Bakery) -> None:
    again = bakery.bake()
    assert began(again) == []
    assert digest_of(again) == digest_of(baked)


def test_an_edit_runs_only_what_depends_on_it(
    baked: Events, bakery: Bakery, tmp_path: Path
) -> None:
    edited = bakery.copy(tmp_path)
    assert began(edited.bake()) == [], "nothing of a build folder hangs on its place"
    edited.manifest.write_text(edited.manifest.read_text().replace("red circle", "green triangle"))
    planned = run(*edited.command("plan", "--json"), env=edited.environment)
    assert planned.returncode == 0, planned.stderr
    steps = {step["step"]: step for step in json.loads(planned.stdout)["steps"]}
    assert steps["warmup"]["why"] == (
        'warmup.prompt changed ("a red circle on a white background" → '
        '"a green triangle on a white background")'
    )
    assert [name for name, step in steps.items() if step["runs"]] == [
        "warmup", "assemble", "load", "verify",
    ]  # fmt: skip
    assert began(edited.bake()) == ["warmup", "assemble", "load", "verify"]


def test_a_plan_leaves_the_containers_of_a_running_bake_alone(
    baked: Events, bakery: Bakery, engine: dict[str, str], slim_image: str
) -> None:
    label = f"bakery.run={bakery.build}/demo"
    made = run("docker", "create", "--label", label, slim_image, "true", env=engine)
    assert made.returncode == 0, made.stderr
    try:
        planned = run(*bakery.command("plan"), env=bakery.environment)
        assert planned.returncode == 0, planned.stderr
        assert bakery.containers().strip() == made.stdout[:12]
    finally:
        run("docker", "rm", made.stdout.strip(), env=engine)


def test_the_image_is_written_as_a_layout(baked: Events, bakery: Bakery, tmp_path: Path) -> None:
    target = f"oci:{tmp_path}/layout:1"
    ended = run(*bakery.command("push"), target, env=bakery.environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [target, digest_of(baked)]
    assert read_from_layout(tmp_path / "layout").identity == digest_of(baked)
    need_program("skopeo")
    inspected = run("skopeo", "inspect", target)
    assert inspected.returncode == 0, inspected.stderr
    shown = json.loads(inspected.stdout)
    assert shown["Digest"] == digest_of(baked)
    assert shown["Labels"]["bakery.sdk"].startswith("runpod ")


def test_a_base_in_the_registry_is_mounted(
    baked: Events, bakery: Bakery, engine: dict[str, str], tmp_path: Path
) -> None:
    record = json.loads((bakery.build / "demo" / "state" / "base.json").read_text())
    other = bakery.copy(tmp_path)
    text = other.manifest.read_text()
    with running_registry(engine) as registry:
        base = f"{registry}/{REPOSITORY}-base:1"
        for command in (["tag", record["result"]["image"], base], ["push", "--quiet", base]):
            ended = run("docker", *command, env=engine)
            assert ended.returncode == 0, ended.stderr
        digests = '{{join .RepoDigests "\\n"}}'
        shown = run("docker", "image", "inspect", "--format", digests, base, env=engine)
        pinned = next(line for line in shown.stdout.split() if line.startswith(f"{registry}/"))
        target = f"{registry}/{REPOSITORY}-mounted"
        ready = f"base:\n  image: {pinned}\nimage: {target}\n"
        other.manifest.write_text(text[: text.index("base:")] + ready)
        events = other.bake("--push")
    pushed = next(event for event in events if event["event"] == "pushed")
    assert {layer["how"] for layer in pushed["layers"] if layer["kind"] == "base"} == {"mounted"}
    assert {"base", "environment", "runtime"} & set(began(events)) == {"base"}
    for image in (base, next(event["reference"] for event in events if event["event"] == "image")):
        assert run("docker", "image", "rm", image, env=engine).returncode == 0


def test_a_bake_that_was_killed_in_any_step_ends_the_same(
    baked: Events, bakery: Bakery, engine: dict[str, str], slim_image: str, tmp_path: Path
) -> None:
    """On another machine: a clean store and build folder; the base is the same, as its digest is an input."""
    first_lock = bakery.manifest.with_suffix(".lock.json").read_bytes()
    bakery = make_bakery(tmp_path, engine, slim_image)
    assert bakery.kill_in_step("lock", signal.SIGKILL) == -signal.SIGKILL
    locked = run(*bakery.command("lock")[:3], env=bakery.environment)
    assert locked.returncode == 0, locked.stderr
    # The lock has the date, which may be tomorrow's by now.
    bakery.manifest.with_suffix(".lock.json").write_bytes(first_lock)
    shutil.rmtree(bakery.environment["BAKE_STORE"])
    for step in ["fetch", *STEPS]:
        assert bakery.kill_in_step(step, signal.SIGKILL) == -signal.SIGKILL
    events = bakery.bake()
    assert digest_of(events) == digest_of(baked)
    assert bakery.containers() == ""
    folder = bakery.build / "demo"
    assert not (folder / "tmp").exists()
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".part"]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "ctrl-c"]
)
def test_an_interrupted_bake_cleans_up_at_once(
    engine: dict[str, str], slim_image: str, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    bakery = make_bakery(tmp_path, engine, slim_image)
    assert bakery.kill_in_step("warmup", number) == status
    assert bakery.containers() == ""
    assert not (bakery.build / "demo" / "tmp").exists()


def test_two_side_by_side_build_their_base_once(
    baked: Events, bakery: Bakery, engine: dict[str, str], tmp_path: Path
) -> None:
    """The base is one that no engine has yet: its Dockerfile holds the time. All else was baked before."""
    first, bakery = bakery, bakery.copy(tmp_path)
    shutil.copytree(ROOT / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    dockerfile = tmp_path / "demo" / "Dockerfile"
    dockerfile.write_text(f"{dockerfile.read_text()}\nLABEL test.time={time.time_ns()}\n")
    text = bakery.manifest.read_text().replace(f"{ROOT}/demo/Dockerfile", str(dockerfile))
    text = re.sub(r"^loras:\n(  .*\n)+", "", text, flags=re.MULTILINE)
    names = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for path in names:
        path.write_text(text.replace("name: demo", f"name: {path.stem}"))
        copy_build(first.build / "demo", bakery.build / path.stem)
        (bakery.build / path.stem / "logs" / "base.log").unlink(missing_ok=True)
    missing = tmp_path / "missing.yaml"
    command = [str(BAKE), "image", "--json", "--jobs", "3", "--build-dir", str(bakery.build)]
    ended = run(*command, *names, missing, env=bakery.environment, timeout_s=900)
    assert ended.returncode == 2, ended.stderr
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    results = {e["manifest"]: e["outcome"] for e in events if e["event"] == "manifest.ended"}
    assert results == {str(names[0]): "done", str(names[1]): "done", str(missing): "failed"}
    images = {e["manifest"]: e["reference"] for e in events if e["event"] == "image"}
    assert sorted(images) == sorted(map(str, names))
    logs = [bakery.build / path.stem / "logs" / "base.log" for path in names]
    assert len([log for log in logs if log.exists()]) == 1, "one of them built it"
    records = [json.loads((bakery.build / p.stem / "state/base.json").read_text()) for p in names]
    assert records[0]["result"] == records[1]["result"]
    for reference in images.values():
        run("docker", "image", "rm", "--force", reference, env=engine)
    run("docker", "image", "rm", "--force", records[0]["result"]["image"], env=engine)
