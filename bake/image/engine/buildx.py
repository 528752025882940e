"""The one gateway to buildx, which builds Dockerfiles: the SDK's `build()` knows neither BuildKit nor secrets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bake.certificates import trusted_certificates
from bake.console import Console
from bake.errors import BuildError, MachineError
from bake.process import CommandError, run_command
from bake.settings import Settings

_NEEDED = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|LANG|LC_\w+|TERM|XDG_\w+|SSH_AUTH_SOCK|SSL_CERT_(FILE|DIR)"
    r"|(DOCKER|BUILDX|BUILDKIT)_\w+|(?i:(HTTPS?|NO|ALL)_PROXY)"
)
_OF_HELPERS = re.compile(r"(AWS|AZURE|GOOGLE|CLOUDSDK|GCLOUD)_\w+")


def build_image(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    console: Console,
    what: str,
) -> None:
    """Runs `docker buildx build` with this machine's certificates, pip settings and git credentials as secrets.

    Args:
        arguments: What follows `docker buildx build`; the context comes last.
        environment: Where docker is found and reached, and the variables of `bake.settings`.
        log: The file that the build's output is appended to.
        console: Shows the command.
        what: What is built, for the message.

    Raises:
        BuildError: the build failed; with the end of its output.
        MachineError: buildx is not installed.
    """
    command = [
        "docker", "buildx", "build", *_chosen_builder(environment), "--platform", "linux/amd64",
        "--progress", "plain", "--network", "host", *build_secrets(environment), *arguments,
    ]  # fmt: skip
    buildx_version(environment)
    try:
        run_command(command, log=log, console=console, environment=docker_environment(environment))
    except CommandError as error:
        raise BuildError(
            f"{what} failed to build:\n    " + "\n    ".join(error.last_lines),
            hint=f"{_missing_image(error.last_lines)}the whole output is in {log}",
        ) from error


def _chosen_builder(environment: Mapping[str, str]) -> Sequence[str]:
    """The engine's own builder, unless a variable names another one.

    One in a container, which `docker buildx use` has left behind (CI's setup does), neither has the engine's images
    nor may use the host's network.
    """
    return () if environment.get("BUILDX_BUILDER") else ("--builder", "default")


def _missing_image(lines: Sequence[str]) -> str:
    """What to do about an image that BuildKit could not get, in whose words that is."""
    found = re.search(r"failed to resolve source metadata for (\S+): ", "\n".join(lines))
    if not found:
        return ""
    return (
        f"{found[1]} cannot be pulled: check the network and `docker login`, or name an image that this engine has, "
        "in place of it: --build-arg PYTHON_IMAGE=NAME (or the Dockerfile's own name for it), or BAKE_BUILD_ARGS; "
    )


def docker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What docker's command line needs to find its engine, its configuration and the network; no token of ours.

    A credential helper that docker's configuration names gets its cloud's variables too.
    """
    helped = _has_helpers(environment)
    return {
        name: value
        for name, value in environment.items()
        if _NEEDED.fullmatch(name) or (helped and _OF_HELPERS.fullmatch(name))
    }


def _has_helpers(environment: Mapping[str, str]) -> bool:
    config = docker_config(environment)
    return bool(config.get("credHelpers") or config.get("credsStore"))


def docker_config(environment: Mapping[str, str]) -> Mapping[str, Any]:
    """The configuration of docker's command line; empty where there is none that can be read."""
    folder = environment.get("DOCKER_CONFIG") or str(Path(environment.get("HOME", "~"), ".docker"))
    try:
        config = json.loads(Path(folder, "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def buildx_version(environment: Mapping[str, str]) -> str:
    """What `docker buildx version` says.

    Raises:
        MachineError: docker's command line or its buildx is not installed.
    """
    hint = "install the package docker-buildx-plugin (Docker's) or docker-buildx (Debian's)"
    if shutil.which("docker", path=environment.get("PATH")) is None:
        raise MachineError("the docker command is not installed", hint=hint)
    shown = subprocess.run(
        ["docker", "buildx", "version"],
        capture_output=True,
        text=True,
        check=False,
        env=docker_environment(environment),
    )
    # Without the plugin, some versions of docker answer with their usage and 0.
    if shown.returncode != 0 or "buildx" not in shown.stdout:
        raise MachineError("docker buildx is not installed", hint=hint)
    return shown.stdout.strip()


def build_secrets(environment: Mapping[str, str]) -> list[str]:
    """Buildx arguments that lend a build what this machine has of certificates, pip settings and git credentials.

    They are mounted for single RUN steps and reach neither a layer nor the history.

    Raises:
        ManifestError: a variable names something else than such a file.
    """
    settings = Settings.from_environment(environment)
    pip = environment.get("PIP_CONFIG_FILE", "")
    lent = {
        "ca_bundle": trusted_certificates(settings),
        "pip_conf": Path(pip) if pip and pip != os.devnull else None,
        "git_credentials": settings.git_credentials,
    }
    arguments = []
    for identifier, path in lent.items():
        if path is not None and path.is_file():
            arguments += ["--secret", f"id={identifier},src={path}"]
    return arguments
