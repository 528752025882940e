"""What is read out of Dockerfiles, what of a context counts, and what Dockerfile.base promises."""

import re
from pathlib import Path

import pytest

from bake.image.build.contract import read_contract
from bake.image.build.dockerfile import hash_context, parse_dockerfile

ROOT = Path(__file__).parents[2]
BASE = (ROOT / "Dockerfile.base").read_text(encoding="utf-8")
TEXT = """\
# about
ARG PYTHON_IMAGE=python:3.10
FROM ${PYTHON_IMAGE} AS first
ARG A=1
ARG B
RUN <<'EOF'
# kept: a script's own line
ARG NOT_ONE=1

EOF
# a comment
FROM first AS Second
ARG A
COPY --from=first /x /x
FROM scratch
"""


def test_arguments_and_stages_are_found_and_here_documents_are_left_alone() -> None:
    dockerfile = parse_dockerfile(TEXT)
    assert dockerfile.arguments == {"PYTHON_IMAGE": "python:3.10", "A": "1", "B": ""}
    assert [(stage.name, stage.base) for stage in dockerfile.stages] == [
        ("first", "${PYTHON_IMAGE}"),
        ("second", "first"),
        ("2", "scratch"),
    ]


def test_a_stage_s_arguments_include_those_of_its_from_line() -> None:
    dockerfile = parse_dockerfile(TEXT)
    assert dockerfile.arguments_of("first") == {"A": "1", "B": "", "PYTHON_IMAGE": "python:3.10"}
    assert dockerfile.arguments_of("Second") == {"A": "1"}
    assert dockerfile.arguments_of("none") == {}


def test_comments_are_no_part_of_a_stage_but_a_script_s_lines_are() -> None:
    before = parse_dockerfile(TEXT).stage("first")
    commented = parse_dockerfile(TEXT.replace("ARG A=1", "# why\n\nARG A=1")).stage("first")
    changed = parse_dockerfile(TEXT.replace("# kept", "# changed")).stage("first")
    assert before == commented
    assert before != changed


def test_a_context_s_hash_follows_contents_and_modes_but_not_what_is_ignored(
    tmp_path: Path,
) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM scratch\n")
    (tmp_path / "used.txt").write_text("1")
    (tmp_path / "__pycache__").mkdir()
    first = hash_context(tmp_path, dockerfile)
    (tmp_path / "__pycache__" / "x.pyc").write_text("x")
    assert hash_context(tmp_path, dockerfile) == first
    (tmp_path / "used.txt").chmod(0o755)
    assert hash_context(tmp_path, dockerfile) != first
    (tmp_path / "other.txt").write_text("1")
    (tmp_path / "Dockerfile.dockerignore").write_text("# only this\n*\n!used.txt\n")
    ignoring = hash_context(tmp_path, dockerfile)
    (tmp_path / "other.txt").write_text("2")
    assert hash_context(tmp_path, dockerfile) == ignoring
    (tmp_path / "used.txt").write_text("2")
    assert hash_context(tmp_path, dockerfile) != ignoring


def _labels_of_base() -> dict[str, str]:
    arguments = parse_dockerfile(BASE).arguments
    pairs = re.findall(r"(bakery\.[a-z.]+)=(?:\"([^\"]*)\"|'([^']*)')", BASE)
    return {
        key: re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], plain or quoted)
        for key, plain, quoted in pairs
    }


def test_the_labels_of_dockerfile_base_keep_the_contract() -> None:
    webui = read_contract(_labels_of_base(), where="Dockerfile.base")
    args = list(webui.args)
    assert webui.revision == "1c0a0c4c26f78c32095ebc7f8af82f5c04fca8c0"
    assert args[args.index("--port") + 1] == str(webui.port)
    assert args[args.index("--server-name") + 1] == "127.0.0.1"
    assert list(webui.args_cpu) == [
        "--use-cpu", "all", "--no-half", "--precision", "full", "--skip-torch-cuda-test",
    ]  # fmt: skip
    assert webui.config_file in webui.harvest_paths


def test_what_the_labels_are_made_of_is_known_in_the_last_stage() -> None:
    """A default that another stage gives is empty here; one from before the first FROM is not."""
    first, last = BASE.index("\nFROM "), BASE.rindex("\nFROM ")
    for name in re.findall(r"\$\{(\w+)\}", BASE[BASE.index("LABEL bakery.contract") :]):
        assert re.search(rf"^ARG {name}=", BASE[:first] + BASE[last:], re.MULTILINE), name


def test_every_repository_is_pinned_to_a_whole_commit() -> None:
    arguments = parse_dockerfile(BASE).arguments
    repositories = [name for name in arguments if name.endswith("_REPOSITORY")]
    assert len(repositories) == 7
    for name in repositories:
        assert arguments[name].startswith("https://")
        assert re.fullmatch(r"[0-9a-f]{40}", arguments[name.replace("_REPOSITORY", "_COMMIT")])


def _pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s\\]+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["torch.txt", "webui.txt", "xformers.txt"])
def test_everything_in_a_lock_has_a_hash_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    assert "://" not in text
    hashed = re.findall(
        r"^([a-z0-9-]+)==[^\s\\]+(?: ;[^\\]*)? (?:\\\n +)?--hash=sha256:[0-9a-f]{64}", text, re.M
    )
    assert set(hashed) == set(_pins(name)) != set()


def test_the_environment_s_two_locks_agree() -> None:
    assert _pins("torch.txt").items() <= _pins("webui.txt").items()


def test_the_base_s_context_is_its_locks_alone() -> None:
    ignore = (ROOT / "Dockerfile.base.dockerignore").read_text(encoding="utf-8")
    kept = {line[1:] for line in ignore.splitlines() if line.startswith("!")}
    assert kept == set(re.findall(r"bind,source=([^,]+),", BASE))


def test_each_step_that_reaches_the_network_may_use_the_lent_ca_bundle() -> None:
    steps = [step for step in re.split(r"\n(?=RUN )", BASE) if "/run/network/with-network " in step]
    steps = [step for step in steps if step.startswith("RUN ")]
    assert len(steps) == 5
    assert all("id=ca_bundle" in step for step in steps)
    assert all("id=pip_conf" in step for step in steps if "pip " in step)
