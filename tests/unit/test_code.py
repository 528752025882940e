"""Which sources a module is run with, in a program of the test's own making."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bake import assets
from bake.plan.code import SHAPES_NOTHING, sources_of, version_of
from bake.plan.state import key_of

Write = Callable[[dict[str, str]], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes a package of the files' names and contents, in which `P` is its name; returns the name.

    Each test's package has another one: what is read of a source is kept.
    """
    package = tmp_path.name
    monkeypatch.setattr(assets, "PACKAGES", (package,))
    monkeypatch.setattr(assets, "package_folder", lambda name: tmp_path / name)

    def write_files(files: dict[str, str]) -> str:
        for name, content in files.items():
            path = tmp_path / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(re.sub(r"\bP\b", package, content))
        return package

    return write_files


def names(package: str, *modules: str) -> list[str]:
    found = sources_of(*(f"{package}.{each}" for each in modules))
    return [name.removeprefix(f"{package}/") for name in found]


def test_imports_are_followed_in_every_form(write: Write) -> None:
    package = write(
        {
            "__init__.py": '"""Only words."""\n',
            "a.py": "import os, P.b as b\nfrom P.sub import c, thing\nfrom P.d import name\n"
            "def later():\n    from P import late\n",
            "b.py": "from os import path\nimport json, P.deeper\n",
            "sub/__init__.py": "thing = 1\n",
            "sub/c.py": "C = 1\n",
            "sub/d.py": "D = 1\n",
            "d.py": "name = 1\n",
            "late.py": "import P.a\n",
            "deeper.py": "x = 1\n",
            "unused.py": "x = 1\n",
        }
    )
    found = sources_of(f"{package}.a")
    expected = ["a.py", "b.py", "d.py", "deeper.py", "late.py", "sub/__init__.py", "sub/c.py"]
    assert list(found) == [f"{package}/{name}" for name in expected]
    content = (assets.package_folder(package) / "sub/c.py").read_bytes()
    assert found[f"{package}/sub/c.py"] == hashlib.sha256(content).hexdigest()


def test_what_only_type_checkers_import_is_left_out(write: Write) -> None:
    package = write(
        {
            "a.py": "if TYPE_CHECKING:\n    import P.typed\nelse:\n    import P.run\nimport P.after\n"
            "if x:\n    import P.either\n",
            **{f"{name}.py": "x = 1\n" for name in ("typed", "run", "after", "either")},
        }
    )
    assert names(package, "a") == ["a.py", "after.py", "either.py", "run.py"]


def test_a_package_with_a_star_stands_for_all_its_modules(write: Write) -> None:
    package = write(
        {
            "sub/__init__.py": "x = 1\n",
            "sub/one.py": "x = 1\n",
            "sub/deep/__init__.py": "x = 1\n",
            "sub/deep/two.py": "import P.beside\n",
            "beside.py": "x = 1\n",
            "other/three.py": "x = 1\n",
        }
    )
    every = [
        "beside.py",
        "sub/__init__.py",
        "sub/deep/__init__.py",
        "sub/deep/two.py",
        "sub/one.py",
    ]
    assert names(package, "sub.*") == every
    assert names(package, "sub.one") == ["sub/__init__.py", "sub/one.py"]
    assert names(package, "sub.one", "other.three") == [
        "other/three.py", "sub/__init__.py", "sub/one.py",
    ]  # fmt: skip


def test_the_packages_around_a_module_are_run_first(write: Write) -> None:
    package = write(
        {
            "__init__.py": "x = 1\n",
            "sub/__init__.py": "import P.helper\n",
            "sub/deep/__init__.py": '"""Words, and nothing to do."""\n',
            "sub/deep/module.py": "x = 1\n",
            "helper.py": "x = 1\n",
        }
    )
    found = names(package, "sub.deep.module")
    assert found == ["__init__.py", "helper.py", "sub/__init__.py", "sub/deep/module.py"]


@pytest.mark.parametrize(
    ("content", "counts"),
    [("", False), ('"""Words."""\n', False), ("# a comment\n", False), ("x = 1\n", True),
     ('"""Words."""\nx = 1\n', True), ("1\n", True)],
)  # fmt: skip
def test_a_source_without_code_counts_for_nothing(write: Write, content: str, counts: bool) -> None:
    assert names(write({"a.py": content}), "a") == ["a.py"] * counts


def test_what_shapes_no_result_is_left_out_with_all_that_it_uses(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write(
        {
            "a.py": "import P.quiet.deep\nimport P.quieter\nimport P.quiet\nimport P.last\n",
            "quiet/__init__.py": "import P.of_quiet\n",
            "quiet/deep.py": "import P.of_quiet\n",
            "of_quiet.py": "x = 1\n",
            "quieter.py": "x = 1\n",
            "last.py": "x = 1\n",
        }
    )
    monkeypatch.setitem(SHAPES_NOTHING, f"{package}.quiet", "talks")
    assert names(package, "a") == ["a.py", "last.py", "quieter.py"]


def test_a_name_that_is_no_module_has_no_source(write: Write) -> None:
    package = write({"a.py": "from P.a import itself\n"})
    assert names(package, "a") == ["a.py"]
    assert names(package, "nothing") == []


def test_a_relative_import_is_refused(write: Write) -> None:
    package = write({"a.py": "from . import b\n"})
    with pytest.raises(ValueError, match=r"^our modules are imported by their whole names$"):
        sources_of(f"{package}.a")


def test_a_source_outside_of_our_packages_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write({"a.py": "x = 1\n"})
    monkeypatch.setattr(assets, "PACKAGES", ("other",))
    path = assets.package_folder(package) / "a.py"
    with pytest.raises(ValueError, match=rf"^{path} is no source file of ours$"):
        sources_of(f"{package}.a")


def test_a_version_is_that_of_all_sources(write: Write) -> None:
    package = write({"a.py": "import P.b\n", "b.py": "x = 1\n", "c.py": "x = 1\n"})
    first, other = f"{package}.a", f"{package}.c"
    assert version_of(first) == key_of(sources_of(first))
    assert version_of(other) == key_of(sources_of(other)) != version_of(first)


def test_who_imports_from_bake_is_not_run_with_all_of_it() -> None:
    """`bake/__init__.py` holds the version, which is in the key of those alone that import it."""
    assert "bake/__init__.py" not in sources_of("bake.image.oci.layers")
    assert "bake/__init__.py" in sources_of("bake.image.final.final")
