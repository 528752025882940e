"""What extensions need beside the base's packages: locks with hashes, held against what the base has."""

from typing import Any

import pytest

from bake.errors import SourceError
from bake.extensions.requirements import lacking, parse_requirements

HASH = f"--hash=sha256:{'a' * 64}"


def test_a_lock_of_packages_is_read() -> None:
    text = f"""# by a tool
rich[jupyter]==13.7.1 ; python_version >= "3.8" \\
    {HASH} \\
    {HASH}
    # via x
Py_CPUinfo==9.0.0 {HASH}
"""
    found = parse_requirements(text, where="x")
    assert [(each.name, each.version) for each in found] == [
        ("rich", "13.7.1"),
        ("py-cpuinfo", "9.0.0"),
    ]
    assert found[0].text.count("--hash") == 2


@pytest.mark.parametrize(
    "line",
    [
        "rich",
        "rich>=13",
        "rich==13.7.1",
        f"rich @ https://example.com/rich.whl {HASH}",
        "-r other.txt",
        f"--index-url https://example.com/simple\nrich==1 {HASH}",
        f"-e . {HASH}",
        f"rich==13 {HASH} --config-settings=x",
        "rich==13 --hash=md5:abc",
    ],
)
def test_what_is_no_lock_of_packages(line: str) -> None:
    with pytest.raises(SourceError, match="no package at one version with its hashes") as caught:
        parse_requirements(line, where="extensions.tint.requirements")
    assert "uv pip compile" in (caught.value.hint or "")


def needs(*lines: str) -> Any:
    return parse_requirements("\n".join(f"{each} {HASH}" for each in lines), where="x")


def test_only_what_the_base_lacks_is_installed() -> None:
    installed = {"torch": "2.1.2+cu121", "rich": "13.7.1"}
    needed = [("a", needs("torch==2.1.2", "mdurl==1", "attrs==2")), ("b", needs("mdurl==1"))]
    assert [each.name for each in lacking(needed, installed)] == ["attrs", "mdurl"]


def test_versions_that_do_not_go_together() -> None:
    with pytest.raises(SourceError, match=r"numpy 2\.0, the webui works with 1\.26\.2"):
        lacking([("a", needs("numpy==2.0"))], {"numpy": "1.26.2"})
    with pytest.raises(SourceError, match=r"mdurl 2, that of a 1"):
        lacking([("a", needs("mdurl==1")), ("b", needs("mdurl==2"))], {})
