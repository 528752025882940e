"""Extensions from a manifest to the store: the manifest's words, git, what of a commit is taken."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bake.console import Console
from bake.errors import ManifestError, SourceError
from bake.extensions.resolve import check_extensions, fetch_extension, pin_extensions
from bake.extensions.tree import unpack_archive
from bake.lock import ExtensionPin, Lock, find_differences
from bake.manifest.extensions import Extension
from bake.manifest.load import parse_manifest
from bake.manifest.model import Manifest
from bake.settings import Settings
from bake.weights.context import Context
from bake.weights.resolve import resolve_lock
from bake.weights.store import Store
from tests.an_extension import FILES, git, make_repository
from tests.standins.models import SD1, safetensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"
URL = "https://example.com/owner/tint"
HASH = f"--hash=sha256:{'a' * 64}"


def manifest(extensions: str, more: str = "", warmup: str = "prompt: a") -> Manifest:
    text = f"""name: x
family: sd1
checkpoint: civitai:1
extensions:
{extensions}
warmup: {{{warmup}}}
image: example.com/x
{more}"""
    return parse_manifest(text, Path("x.yaml"))


def refused(extensions: str, **more: str) -> str:
    with pytest.raises(ManifestError) as caught:
        manifest(extensions, **more)
    return str(caught.value)


# The manifest


def test_an_extension_has_an_address_and_a_commit() -> None:
    (each,) = manifest(
        f"  - {{url: {URL}.git, commit: {COMMIT}, scripts: [Tint], requirements: none}}"
    ).extensions
    assert (each.folder, each.scripts, each.requirements) == ("tint", ("Tint",), "none")


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        (f"{{url: {URL}}}", "extensions.0", "needs either `commit` or `ref`"),
        (f"{{url: {URL}, commit: {COMMIT}, ref: v1}}", "extensions.0", "needs either"),
        (f"{{url: {URL}, commit: v1.2}}", "extensions.0.commit", "a branch is written as `ref`"),
        (f"{{url: {URL}, commit: {COMMIT[:12]}}}", "extensions.0.commit", "40 hexadecimal digits"),
        (f"{{url: {URL}, commit: {COMMIT.upper()}}}", "extensions.0.commit", "in lower case"),
        (f"{{url: {URL}, ref: --upload-pack=x}}", "extensions.0.ref", "is no tag or branch"),
        (f"{{url: {URL}, ref: a..b}}", "extensions.0.ref", "is no tag or branch"),
        (f"{{commit: {COMMIT}}}", "extensions.0.url", "is missing; expected a git repository's"),
        ("{url: 'http://example.com/a', ref: v1}", "extensions.0.url", "is no git repository's"),
        ("{url: 'ssh://git@example.com/a', ref: v1}", "extensions.0.url", "is no git repository's"),
        ("{url: 'git@example.com:a/b', ref: v1}", "extensions.0.url", "is no git repository's"),
        ("{url: '--upload-pack=x', ref: v1}", "extensions.0.url", "is no git repository's"),
        ("{url: 'https://a:b@example.com/c', ref: v1}", "extensions.0.url", "holds a credential"),
        ("{url: 'https://example.com/', ref: v1}", "extensions.0.url", "plain address"),
        ("{url: 'https://example.com/a?x=1', ref: v1}", "extensions.0.url", "plain address"),
        ("{url: 'https://example.com/..', ref: v1}", "extensions.0", "the name .."),
        (f"{{url: {URL}, ref: v1, name: ../x}}", "extensions.0.name", "letters, digits, dots"),
        (f"{{url: {URL}, ref: v1, name: LoRA}}", "extensions.0.name", "an extension LoRA of its"),
        ("{url: 'https://example.com/mobile', ref: v1}", "extensions.0", "give it another `name`"),
        (f"{{url: {URL}, ref: v1, scripts: ['']}}", "extensions.0.scripts.0", "no script's title"),
        (f"{{url: {URL}, ref: v1, requirements: x.txt}}", "requirements", "neither file:NAME.txt"),
        (f"{{url: {URL}, ref: v1, script: [a]}}", "extensions.0.script", "did you mean scripts?"),
    ],
)
def test_what_no_extension_can_be(entry: str, key: str, words: str) -> None:
    message = refused(f"  - {entry}")
    assert key in message
    assert words in message
    assert "x.yaml:5" in message


def test_two_of_one_name_or_script() -> None:
    first = f"  - {{url: {URL}, ref: v1, scripts: [Tint]}}\n"
    assert "two extensions are named tint" in refused(f"{first}  - {{url: {URL}.git, ref: v2}}")
    other = "  - {url: 'file:../Other', ref: v2, scripts: [tint]}"
    assert "two extensions are giving the script tint" in refused(first + other)


def test_flags_that_would_leave_them_out() -> None:
    entry = f"  - {{url: {URL}, ref: v1}}"
    message = refused(entry, more="webui: {args: [--disable-all-extensions]}")
    assert "the extensions would not be loaded, with --disable-all-extensions" in message
    manifest(entry, more="webui: {args: [--no-half-vae]}")


def test_a_warm_up_may_draw_with_their_scripts() -> None:
    entry = f"  - {{url: {URL}, ref: v1, scripts: [Tint]}}"
    drawn = "prompt: a, alwayson_scripts: {tint: {args: [true]}}"
    payload = manifest(entry, warmup=drawn).warmup.payload()
    assert payload["alwayson_scripts"] == {"tint": {"args": [True]}}
    assert "alwayson_scripts" not in manifest(entry).warmup.payload()
    other = "prompt: a, alwayson_scripts: {tnt: {args: [true]}}"
    assert "names tnt, which no extension has" in refused(entry, warmup=other)


# git, and what of a commit is taken


@pytest.fixture
def context(tmp_path: Path) -> Context:
    settings = Settings(store=tmp_path / "store", cache=tmp_path / "cache")
    store = Store(settings.store)
    return Context(settings=settings, store=store, console=Console(), folder=tmp_path)


def extension(**fields: Any) -> Extension:
    return Extension(**{"url": "file:tint", **fields})


def pin(context: Context, previous: tuple[ExtensionPin, ...] = (), **fields: Any) -> ExtensionPin:
    (made,) = pin_extensions([extension(**fields)], previous=previous, context=context)
    return made


def names_in(archive: Path) -> dict[str, int]:
    with tarfile.open(archive) as tar:
        return {each.name: each.mode for each in tar}


def test_a_commit_becomes_an_archive_that_is_always_the_same(context: Context) -> None:
    commit = make_repository(context.folder / "tint")
    made = pin(context, commit=commit)
    assert (made.name, made.commit, made.licence) == ("tint", commit, "MIT")
    archive = context.store.path_of(made.sha256)
    assert set(names_in(archive)) == set(FILES)
    assert names_in(archive)["bin/run.sh"] == 0o755
    archive.unlink()
    assert pin(context, commit=commit).sha256 == made.sha256
    unpack_archive(archive, context.folder / "unpacked")
    assert (context.folder / "unpacked/tint_words.py").read_text() == FILES["tint_words.py"]


def test_a_tag_and_a_branch_stand_for_a_commit(context: Context) -> None:
    folder = context.folder / "tint"
    first = make_repository(folder)
    git(folder, "tag", "--annotate", "v1", "--message", "one")
    second = make_repository(folder, {"new.py": "1\n"})
    assert pin(context, ref="v1").commit == first
    assert pin(context, ref="main").commit == second
    with pytest.raises(SourceError, match=r"has no tag or branch v2\n"):
        pin(context, ref="v2")


def test_a_pin_stays_until_the_manifest_says_something_else(context: Context) -> None:
    folder = context.folder / "tint"
    first = make_repository(folder)
    before = dataclasses.replace(pin(context, ref="main"), resolved_on="2020-01-01")
    second = make_repository(folder, {"new.py": "1\n"})
    assert pin(context, (before,), ref="main") == before
    context.store.path_of(before.sha256).unlink()
    assert pin(context, (before,), ref="main") == before
    assert pin(context, (before,), commit=second).commit == second
    assert pin(context, (before,), commit=first).ref is None


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"model.pth": "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"},
            "Git LFS has the contents of model.pth",
        ),
        ({"a\nb.py": "1"}, "names that no image can have: a\\nb.py"),
        ({"x/.wh.y": "1"}, "names that no image can have: x/.wh.y"),
        ({"install.py": "import launch\n"}, "it has install.py: it needs packages"),
        ({"Requirements.txt": "fvcore\n"}, "it has Requirements.txt: it needs packages"),
        ({"requirements-gpu.txt": "fvcore\n"}, "it has requirements-gpu.txt: it needs packages"),
        (
            {"setup.cfg": "[options]\ninstall_requires =\n    fvcore\n"},
            "it has setup.cfg: it needs packages",
        ),
        (
            {"requirements.txt": "# none\n\nfvcore\n", "pyproject.toml": "dependencies = ['a']\n"},
            "it has requirements.txt and pyproject.toml: it needs packages",
        ),
    ],
)
def test_what_no_image_of_ours_can_have(
    context: Context, files: dict[str, str | bytes], words: str
) -> None:
    commit = make_repository(context.folder / "tint", files)
    with pytest.raises(SourceError) as caught:
        pin(context, commit=commit)
    assert words in caught.value.what
    assert (caught.value.where or "").startswith("extensions.tint")
    assert not context.store.files()


def test_files_that_need_nothing(context: Context) -> None:
    files: dict[str, str | bytes] = {
        "requirements.txt": "# none\n",
        "requirements-dev.txt": "pytest\n",
        "pyproject.toml": "[tool]\n",
        "setup.cfg": "[flake8]\nmax-line-length = 100\n",
        "tools/install.py": "1",
    }
    commit = make_repository(context.folder / "tint", files)
    assert pin(context, commit=commit).requirements is None
    make_repository(context.folder / "other", {"install.py": "1"})
    assert pin(context, url="file:other", ref="main", requirements="none").requirements == "none"


def test_submodules_are_refused(context: Context) -> None:
    folder = context.folder / "tint"
    make_repository(folder)
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{COMMIT},annotator/hands")
    git(folder, "commit", "--quiet", "--message", "a submodule")
    with pytest.raises(SourceError, match=r"it has submodules \(annotator/hands\)"):
        pin(context, ref="main")


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        (b"README.md", True),
        (b"./README.md", True),
        (b"../README.md", False),
        (b"/etc/passwd", False),
        (b"scripts/../README.md", False),  # `scripts` may be a link to another folder
        (b"caf\xe9", False),
    ],
)
def test_links_stay_inside(context: Context, target: bytes, stays: bool) -> None:
    folder = context.folder / "tint"
    make_repository(folder)
    (folder / "link").symlink_to(os.fsdecode(target))
    commit = make_repository(folder, {})
    if stays:
        with tarfile.open(context.store.path_of(pin(context, commit=commit).sha256)) as tar:
            assert tar.getmember("link").linkname == target.decode()
    else:
        with pytest.raises(SourceError, match="link is a link out of the extension's folder"):
            pin(context, commit=commit)


def test_bytecode_that_was_committed_is_left_out(context: Context) -> None:
    files: dict[str, str | bytes] = {
        "a.py": "1",
        "__pycache__/a.cpython-310.pyc": b"x",
        "b.pyc": b"x",
    }
    commit = make_repository(context.folder / "tint", files)
    assert set(names_in(context.store.path_of(pin(context, commit=commit).sha256))) == {"a.py"}


def test_no_filter_hook_or_attribute_has_a_say(context: Context) -> None:
    files: dict[str, str | bytes] = {
        ".gitattributes": "secret.py export-ignore\n*.py text eol=crlf ident filter=x\n",
        "secret.py": "# $Id$\n1\n",
    }
    commit = make_repository(context.folder / "tint", files)
    with tarfile.open(context.store.path_of(pin(context, commit=commit).sha256)) as tar:
        opened = tar.extractfile("secret.py")
        assert opened is not None
        assert opened.read() == b"# $Id$\n1\n"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"commit": COMMIT}, "the repository has no such commit"),
        ({"url": "file:nothing", "commit": COMMIT}, "there is no such repository"),
    ],
)
def test_what_a_repository_does_not_have(
    context: Context, fields: dict[str, Any], words: str
) -> None:
    make_repository(context.folder / "tint")
    with pytest.raises(SourceError, match=words) as caught:
        pin(context, **fields)
    assert str(context.folder) not in str(caught.value)


def test_a_lock_that_was_edited(context: Context) -> None:
    commit = make_repository(context.folder / "tint")
    made = dataclasses.replace(pin(context, commit=commit), sha256="0" * 64)
    with pytest.raises(SourceError, match=f"the lock says {'0' * 64}"):
        fetch_extension(made, context)


def edited(made: ExtensionPin, **fields: Any) -> Lock:
    changed = (dataclasses.replace(made, **fields),)
    return Lock(manifest_name="x", family="sd1", pins=(), extensions=changed)


def test_a_commit_that_was_edited_is_not_believed(context: Context) -> None:
    """The store has the archive of the lock's digest, which is that of another commit."""
    folder = context.folder / "tint"
    first = make_repository(folder)
    made = pin(context, ref="main")
    second = make_repository(folder, {"new.py": "1\n"})
    assert made.commit == first
    check_extensions(edited(made), context)
    with pytest.raises(SourceError) as caught:
        check_extensions(edited(made, commit=second), context)
    assert caught.value.what == (
        f"the lock's commit is {second}, the files of its SHA256 are of {first}"
    )
    assert "bake lock MANIFEST" in str(caught.value.hint)
    (wrong,) = edited(made, commit=second).extensions
    with pytest.raises(SourceError, match="has other files than the lock says") as caught:
        pin(context, (wrong,), ref="main")
    assert "delete tint from the lock" in str(caught.value.hint)
    assert pin(context, ref="main").commit == second


def test_what_else_of_a_lock_was_edited(context: Context) -> None:
    commit = make_repository(context.folder / "tint")
    made = pin(context, commit=commit)
    with pytest.raises(SourceError, match="the lock's files_sha256 is"):
        check_extensions(edited(made, files_sha256="0" * 64), context)
    (context.folder / "x.txt").write_text(f"rich==1 {HASH}\n")
    other = pin(context, commit=commit, requirements="file:x.txt").requirements_sha256
    with pytest.raises(SourceError, match="the file of its SHA256 is no extension's"):
        check_extensions(edited(made, sha256=other), context)
    # The manifest names the commit, so the lock is put right.
    (wrong,) = edited(made, files_sha256="0" * 64, sha256="0" * 64).extensions
    assert pin(context, (wrong,), commit=commit) == made


def test_a_tag_keeps_its_commit_when_requirements_come(context: Context) -> None:
    first = make_repository(context.folder / "tint")
    made = pin(context, ref="main")
    make_repository(context.folder / "tint", {"new.py": "1\n"})
    assert pin(context, (made,), ref="main", requirements="none").commit == first


def lock_with_models(context: Context, *paths: str) -> Lock:
    """A manifest with the extension `tint` and models at these paths, locked."""
    make_repository(context.folder / "tint", {"models/own.safetensors": "x", "a/b.py": "1"})
    (context.folder / "m.safetensors").write_bytes(safetensors({"weight": (3, 3)}))
    (context.folder / "c.safetensors").write_bytes(safetensors(SD1))
    listed = json.dumps(dict.fromkeys(paths, "file:m.safetensors"))
    text = f"""name: x
family: sd1
checkpoint: file:c.safetensors
extensions: [{{url: 'file:tint', ref: main}}]
extension_models: {listed}
warmup: {{prompt: a}}
image: example.com/x
"""
    return resolve_lock(
        parse_manifest(text, context.folder / "x.yaml"),
        previous=None, settings=context.settings, store=context.store, console=context.console,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("models/own.safetensors", "models/own.safetensors"),
        ("a/b.py/c.safetensors", "a/b.py"),
        ("models/own.safetensors/c.safetensors", "models/own.safetensors"),
    ],
)
def test_a_model_where_the_commit_has_a_file(context: Context, path: str, file: str) -> None:
    with pytest.raises(SourceError, match=f"tint itself has {file} at that place") as caught:
        lock_with_models(context, f"extensions/tint/{path}")
    assert caught.value.where == f"extension_models.extensions/tint/{path}"
    assert "give it another path" in str(caught.value.hint)


def test_paths_that_are_alike_are_two_models(context: Context) -> None:
    """All of them were called A-b-c.safetensors in the lock, and refused as one name."""
    paths = ["A/b-c.safetensors", "A/b/c.safetensors", "A/B-c.safetensors", "A-b/c.safetensors"]
    paths += ["extensions/tint/models/other.safetensors"]
    lock = lock_with_models(context, *paths)
    assert [each.name for each in lock.pins[1:]] == paths
    assert [str(each.place) for each in lock.pins[1:]] == paths
    assert Lock.from_json(lock.to_json()) == lock


def test_what_the_store_lacks_comes_back(context: Context) -> None:
    made = pin(context, commit=make_repository(context.folder / "tint"))
    context.store.path_of(made.sha256).unlink()
    fetch_extension(made, context)
    assert context.store.has(made.sha256)


# Over HTTP


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    servers: list[ThreadingHTTPServer] = []

    def start(handler: Any) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


def test_a_server_of_plain_files(context: Context, serve: Callable[[Any], str]) -> None:
    folder = context.folder / "tint"
    commit = make_repository(folder)
    git(folder, "update-server-info")
    address = serve(functools.partial(Quiet, directory=str(folder)))
    made = pin(context, url=f"{address}/.git", name="tint", commit=commit)
    assert made.sha256 == pin(context, commit=commit).sha256


def answering(status: int, **headers: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    return Handler


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (301, "the repository has moved"),
        (401, "there is no such repository, or it is private"),
        (403, "there is no such repository, or it is private"),
        (404, "there is no such repository"),
        (500, "git cannot fetch it"),
    ],
)
def test_what_a_server_refuses(
    context: Context, serve: Callable[[Any], str], status: int, words: str
) -> None:
    headers = {"Location": "http://127.0.0.1:1/x/info/refs?service=git-upload-pack"}
    if status == 401:
        headers = {"WWW-Authenticate": "Basic realm=x"}
    address = serve(answering(status, **headers))
    with pytest.raises(SourceError, match=words) as caught:
        pin(context, url=f"{address}/owner/tint", commit=COMMIT)
    assert caught.value.where == f"extensions.tint ({address}/owner/tint)"


@pytest.mark.parametrize("host", ["169.254.169.254", "metadata.invalid"])
def test_hosts_that_are_not_asked(context: Context, host: str) -> None:
    with pytest.raises(SourceError) as caught:
        pin(context, url=f"https://{host}/a/tint", commit=COMMIT)
    assert caught.value.where == "extensions.tint"


def test_the_lock_of_packages_is_pinned_too(context: Context) -> None:
    commit = make_repository(context.folder / "tint")
    file = context.folder / "tint.txt"
    file.write_text(f"rich==1 {HASH}\n")
    made = pin(context, commit=commit, requirements="file:tint.txt")
    assert made.requirements_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert made.stored == [made.sha256, made.requirements_sha256]
    file.write_text(f"rich==2 {HASH}\n")
    again = pin(context, (made,), commit=commit, requirements="file:tint.txt")
    assert again.requirements_sha256 != made.requirements_sha256
    file.write_text(f"rich==3 {HASH}\n")
    context.store.path_of(str(again.requirements_sha256)).unlink()
    with pytest.raises(SourceError, match="it was changed"):
        fetch_extension(again, context)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match="the file is not UTF-8 text"):
        pin(context, commit=commit, requirements="file:tint.txt")


# The lock


PIN = ExtensionPin(
    name="tint",
    url=URL,
    commit=COMMIT,
    sha256="a" * 64,
    size_bytes=10,
    files_sha256="b" * 64,
    resolved_on="2026-01-01",
)
LOCK = Lock(manifest_name="x", family="sd1", pins=(), extensions=(PIN,))


def test_a_lock_without_extensions_is_what_it_was() -> None:
    plain = Lock(manifest_name="x", family="sd1", pins=())
    assert json.loads(plain.to_json()).keys() == {"format", "manifest", "family", "pins"}
    assert Lock.from_json(plain.to_json()) == plain
    assert Lock.from_json(LOCK.to_json()) == LOCK


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"commit": "v1"}, "the extension tint has a commit that is not of 40"),
        ({"name": "../x"}, "the extension ../x has a name that is no plain file name"),
        ({"more": 1}, "the extension tint has more, which this bake does not know"),
        ({"url": None}, "the extension tint has a url that is not a text"),
    ],
)
def test_a_lock_that_does_not_fit(change: dict[str, Any], words: str) -> None:
    data = json.loads(LOCK.to_json())
    data["extensions"][0].update(change)
    with pytest.raises(ValueError, match=words):
        Lock.from_json(json.dumps(data))
    with pytest.raises(ValueError, match="`extensions` is not a list of mappings"):
        Lock.from_json(json.dumps({**data, "extensions": {}}))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (f"{{url: {URL}, commit: {COMMIT}}}", None),
        (f"{{url: {URL}, commit: {COMMIT}, scripts: [Tint]}}", None),
        (f"{{url: {URL}, ref: v1}}", "extensions.tint.ref is v1, the lock has None"),
        (f"{{url: {URL}.git, commit: {COMMIT}}}", "extensions.tint.url is"),
        (f"{{url: {URL}, commit: {COMMIT[::-1]}}}", "extensions.tint.commit is"),
        (f"{{url: {URL}, commit: {COMMIT}, requirements: none}}", "tint.requirements is none"),
        (f"{{url: {URL}, commit: {COMMIT}, name: other}}", "extensions.other is not in the lock"),
    ],
)
def test_what_differs_between_manifest_and_lock(entry: str, words: str | None) -> None:
    found = "; ".join(find_differences(manifest(f"  - {entry}"), LOCK))
    own = [each for each in found.split("; ") if each.startswith("extensions.")]
    assert (words in found) if words else not own
