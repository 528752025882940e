"""What the workflows promise: make targets alone, pinned actions, few rights, bounded jobs; and which manifests they take."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
_RIGHTS = {
    ("models.yml", "model"): {"contents": "read", "packages": "write", "id-token": "write"},
    ("model.yml", "bake"): {"contents": "read", "packages": "write", "id-token": "write"},
}
"""All others read the checkout."""


def jobs() -> list[Any]:
    found = []
    for path in WORKFLOWS:
        document = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        for name, job in document["jobs"].items():
            found.append(pytest.param(path.name, name, job, document, id=f"{path.stem}-{name}"))
    return found


@pytest.mark.parametrize(("workflow", "name", "job", "document"), jobs())
def test_a_job_is_bounded_and_has_few_rights(
    workflow: str, name: str, job: dict[str, Any], document: dict[str, Any]
) -> None:
    rights = job.get("permissions", document["permissions"])
    assert rights == _RIGHTS.get((workflow, name), {"contents": "read"})
    if "uses" not in job:
        assert 0 < job["timeout-minutes"] <= 360
    # Nothing of an event is pasted into a shell: it comes by the environment.
    for step in job.get("steps", []):
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize(("workflow", "name", "job", "document"), jobs())
def test_a_step_is_a_make_target_or_a_pinned_action(
    workflow: str, name: str, job: dict[str, Any], document: dict[str, Any]
) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / ".github" / "workflows" / workflow).read_text(encoding="utf-8")
    for step in job.get("steps", []):
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"])
            assert re.search(rf"{re.escape(step['uses'])}  # v[\d.]+$", text, re.MULTILINE)
        elif step["run"] != ".ci/run":
            (target,) = re.findall(r"make (?:--silent )?([a-z-]+)", step["run"])
            assert target in targets


def test_a_stranger_s_pull_request_gets_no_secret_and_no_runner_of_ours() -> None:
    document = YAML(typ="safe").load((ROOT / ".github/workflows/model.yml").read_text())
    for name, job in document["jobs"].items():
        for_pull_requests = "github.event_name == 'pull_request'" in job["if"]
        assert for_pull_requests == (name == "summary")
        if for_pull_requests:
            assert job["runs-on"] == "ubuntu-24.04"
            assert "secrets." not in json.dumps(job)
        else:
            assert "github.event_name != 'pull_request'" in job["if"]


class Repository:
    """A clone with a `.ci/changed` of ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".ci").mkdir()
        (folder / "manifests").mkdir()
        script = folder / ".ci" / "changed"
        script.write_bytes((ROOT / ".ci" / "changed").read_bytes())
        script.chmod(0o755)
        self.git("init", "--quiet")
        self.commit("README.md")

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *who, *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, *names: str) -> str:
        for name in names:
            path = self.folder / name
            path.write_text(path.read_text() + "#\n" if path.exists() else "#\n")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "x")
        return self.git("rev-parse", "HEAD")

    def changed(self, *arguments: str, code: int = 0) -> str:
        ended = subprocess.run(
            [".ci/changed", *arguments],
            cwd=self.folder, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert ended.returncode == code, ended.stderr
        return ended.stderr if code else ended.stdout.strip()


def test_changed_manifests_are_listed(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    assert repository.changed("HEAD") == "[]"
    repository.commit("manifests/a.yaml", "manifests/a.lock.json", "manifests/b.yaml")
    repository.commit("manifests/demo.yaml", "manifests/notes")
    assert repository.changed("HEAD^1") == "[]"
    assert json.loads(repository.changed("HEAD~2")) == ["manifests/a.yaml", "manifests/b.yaml"]
    repository.commit("manifests/a.lock.json")
    assert json.loads(repository.changed("HEAD^1")) == ["manifests/a.yaml"]
    (tmp_path / "manifests" / "b.yaml").unlink()
    repository.commit()
    assert repository.changed("HEAD^1") == "[]"
    # What was before a branch's first push
    assert json.loads(repository.changed("0" * 40)) == ["manifests/a.yaml"]
    assert json.loads(repository.changed("", "manifests/a.yaml")) == ["manifests/a.yaml"]


def test_names_that_a_shell_would_run_are_refused(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    repository.commit("manifests/$(touch x).yaml")
    assert "a manifest is manifests/NAME.yaml" in repository.changed("HEAD^1", code=2)
    assert "there is no manifests/c.yaml" in repository.changed("", "manifests/c.yaml", code=2)
    assert "nonsense is no commit here" in repository.changed("nonsense", code=2)
    assert repository.changed("", code=2).startswith("since which commit? .ci/changed origin/main")
    assert not (tmp_path / "x").exists()
