"""Secrets do not ride in build arguments; what needs one is lent it."""

import base64
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bake.cli.options import parse_build_args
from bake.errors import ManifestError
from bake.manifest.load import parse_manifest
from bake.secrets import find_secret

ROOT = Path(__file__).parents[2]
TOKEN = "s3cr3t-of-git"
BAD = {
    "https://user:pw@git.example/x.git": "a user or password",
    "https://ghtoken@git.example/x.git": "a user or password",
    "http://me:pw@proxy.example:8080": "a user or password",
    "see https://host/file?token=abc": "token=…",
    "https://host/file?x=1&X-Amz-Signature=abc": "X-Amz-Signature=…",
    "https://host/a?sig=abc": "sig=…",
    "ssh://git:pw@host/x": "a user or password",
    "me:pw@git.example:x.git": "a user and a password",
    "hf_" + "a" * 34: "a Hugging Face token",
    "ghp_" + "A" * 36: "a GitHub token",
}
GOOD = (
    "https://github.com/owner/repository.git",
    "ssh://git@host/owner/x.git",
    "git@host:owner/x.git",
    "python:3.10.14-slim@sha256:" + "0" * 64,
    "registry.example:5000/python:3.10",
    "8.9",
    "",
    "https://host/file?download=1",
)


@pytest.mark.parametrize("value", BAD)
def test_a_build_argument_with_a_secret_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(ManifestError) as raised:
        parse_build_args((f"WEBUI_REPOSITORY={value}",))
    shown = str(raised.value)
    assert "the build argument WEBUI_REPOSITORY holds" in shown
    assert BAD[value] in shown
    assert "BAKE_GIT_CREDENTIALS" in shown, "the remedy"
    assert value not in shown


@pytest.mark.parametrize("value", BAD)
def test_a_manifest_with_one_is_refused_with_its_line(value: str) -> None:
    text = f"""\
name: a-model
family: demo
checkpoint: file:a.safetensors
warmup: {{prompt: x}}
image: ghcr.io/you/a-model
base:
  dockerfile: Dockerfile
  args:
    GIT: "{value}"
"""
    with pytest.raises(ManifestError) as raised:
        parse_manifest(text, Path("m.yaml"))
    assert "m.yaml:9: base.args.GIT: holds" in str(raised.value)
    assert value not in str(raised.value)


@pytest.mark.parametrize("value", GOOD)
def test_what_is_no_secret_is_taken(value: str) -> None:
    assert find_secret(value, {}) is None
    assert parse_build_args((f"NAME={value}",)) == {"NAME": value}


def test_this_machine_s_own_tokens_are_secrets_whatever_they_look_like() -> None:
    assert find_secret("x-plain-words-y", {"MY_TOKEN": "plain-words"}) is not None
    assert find_secret("x-plain-words-y", {"MY_WORDS": "plain-words"}) is None


def test_an_argument_without_a_name_is_not_shown_whole() -> None:
    with pytest.raises(ManifestError) as raised:
        parse_build_args(("1=hidden",))
    assert "hidden" not in str(raised.value)


class Private(SimpleHTTPRequestHandler):
    """Files for those who know the token."""

    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(f"user:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") == wanted:
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="private"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Private, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def git(*arguments: str, cwd: Path) -> str:
    shown = subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True)
    return shown.stdout.strip()


def test_the_build_reaches_a_private_repository_with_lent_credentials(tmp_path: Path) -> None:
    made = tmp_path / "x.git"
    made.mkdir()
    git("init", "--quiet", cwd=made)
    git(
        "-c",
        "user.name=x",
        "-c",
        "user.email=x",
        "commit",
        "--quiet",
        "--allow-empty",
        "-m",
        "x",
        cwd=made,
    )
    git("update-server-info", cwd=made)
    commit = git("rev-parse", "HEAD", cwd=made)
    text = (ROOT / "Dockerfile.base").read_text(encoding="utf-8")
    found = re.search(r"<<'EOF' /with-network\n(.*?)\nEOF\n", text, re.DOTALL)
    assert found is not None
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    script = tmp_path / "with-network"
    script.write_text(found[1].replace("/run/secrets", str(secrets)))
    script.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_TERMINAL_PROMPT": "0"}
    with serving(tmp_path) as port:
        address = f"http://127.0.0.1:{port}/x.git/.git"

        def ask() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [str(script), "git", "ls-remote", address, "HEAD"],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )

        assert ask().returncode != 0
        lent = secrets / "git_credentials"
        lent.write_text(f"http://user:{TOKEN}@127.0.0.1:{port}\n")
        lent.chmod(0o400)
        secrets.chmod(0o500)
        answered = ask()
        secrets.chmod(0o700)
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.split() == [commit, "HEAD"]
    assert lent.read_text().count("\n") == 1, "git does not write into it"


def test_the_step_that_fetches_repositories_is_lent_them() -> None:
    text = (ROOT / "Dockerfile.base").read_text(encoding="utf-8")
    [step] = [each for each in text.split("RUN ") if 'fetch-commit "$@"' in each]
    assert (
        "--mount=type=secret,id=git_credentials,target=/run/secrets/git_credentials,required=false"
        in step
    )
