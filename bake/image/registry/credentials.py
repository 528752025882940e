"""Credentials for one registry, out of the docker config: its entry there, or what a credential helper says.

The forms are those of docker's own reader (github.com/docker/cli, `cli/config/configfile`) and of the
helpers' protocol (github.com/docker/docker-credential-helpers). Only what the registry itself is named by
is looked at: another registry's entry may be as it likes. What is there and cannot be understood is an
error, since a registry that is asked anonymously in silence refuses an hour later.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bake.errors import PushError
from bake.image.oci.reference import DOCKER_HUB, HUB_NAMES

_HUB_SERVER = "https://index.docker.io/v1/"
"""What Docker Hub is called in docker's config and to its helpers."""
_TOKEN_USER = "<token>"  # noqa: S105  # a helper's word for: the secret is an identity token
_IN_ENVIRONMENT = "DOCKER_AUTH_CONFIG"
_NOT_FOUND = b"credentials not found"
HELPER_TIMEOUT_S = 120.0
"""A helper may ask its user for a passphrase."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a docker config has for one registry."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def is_empty(self) -> bool:
        """Whether the registry is spoken to anonymously."""
        return not (self.username or self.password or self.identity_token)


def find_credentials(host: str, environ: Mapping[str, str] | None = None) -> Credentials:
    """Reads `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`, and asks the helper that it names.

    An entry in `$DOCKER_AUTH_CONFIG` comes first, as with docker since 28.3: GitLab's jobs have a config there.

    Args:
        host: As a reference names the registry: `docker.io`, `ghcr.io`, `127.0.0.1:5005`.
        environ: Instead of the process's.

    Returns:
        Empty credentials where the config has none for the host, or is not there.

    Raises:
        PushError: the file, the host's own entry or the helper's answer cannot be understood.
    """
    env = os.environ if environ is None else environ
    path = Path(f"${_IN_ENVIRONMENT}")  # shown in messages
    given = _parse_config(os.fsencode(env.get(_IN_ENVIRONMENT, "")), path)
    entry = _own(_mapping(given, "auths", path), host)
    if entry != {}:
        return _from_entry(entry, host, path)
    path = _config_path(env)
    config = _read_config(path)
    helper = _helper_of(config, host, path)
    if helper:
        found = _ask_helper(helper, host, path, env)
        if found is not None:
            return found
    return _from_entry(_own(_mapping(config, "auths", path), host), host, path)


def _config_path(env: Mapping[str, str]) -> Path:
    named = env.get("DOCKER_CONFIG")
    home = env.get("HOME") or os.path.expanduser("~")  # noqa: PTH111  # Path.home() raises
    return Path(named or Path(home) / ".docker") / "config.json"


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from error
    return _parse_config(data, path)


def _parse_config(data: bytes, path: Path) -> Mapping[str, Any]:
    if not data.strip():
        return {}
    if data.startswith(b"\xef\xbb\xbf"):
        raise _unreadable(path, "it begins with a byte order mark (BOM), which JSON must not have")
    try:
        config = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _unreadable(path, "it is not UTF-8") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _unreadable(path, f"it is not JSON ({where}: {error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, "it is not JSON") from error
    if not isinstance(config, dict):
        raise _unreadable(path, "it is no JSON object")
    return config


def _mapping(config: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    found = config.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _unreadable(path, f"{key} is no JSON object")
    return found


def _own(entries: Mapping[str, Any], host: str) -> Any:
    """The host's own entry: by its name, else by an address of it (`https://host/v1/`); {} without one."""
    names = HUB_NAMES if host == DOCKER_HUB else (host,)
    if host == DOCKER_HUB and _HUB_SERVER in entries:
        return entries[_HUB_SERVER]
    for name in names:
        if name in entries:
            return entries[name]
    # As docker does: scheme and path are taken off. An address with the path of a namespace comes last.
    for paths in (("", "v1", "v2"), None):
        for key, entry in entries.items():
            name, _, rest = re.sub(r"^https?://", "", key).partition("/")
            if name.lower() in names and (paths is None or rest.strip("/") in paths):
                return entry
    return {}


def _helper_of(config: Mapping[str, Any], host: str, path: Path) -> str:
    """`credHelpers`' for the host, else `credsStore`; an empty name stands for none, as with docker."""
    named = _own(_mapping(config, "credHelpers", path), host)
    if named == {}:
        named = config.get("credsStore") or ""
    if named and not (isinstance(named, str) and re.fullmatch(r"[A-Za-z0-9._-]+", named)):
        raise _malformed(path, host, "its credential helper has no name of a helper")
    return str(named or "")


def _ask_helper(helper: str, host: str, path: Path, env: Mapping[str, str]) -> Credentials | None:
    """What the helper has for the host; None where it says that it has nothing."""
    program = f"docker-credential-{helper}"
    found = shutil.which(program, path=env.get("PATH"))
    if found is None:
        raise _malformed(path, host, f"the credential helper {program} is not installed")
    server = _HUB_SERVER if host == DOCKER_HUB else host
    status, output = _run_helper(found, server, env)
    if status is None:
        raise _malformed(
            path,
            host,
            f"the credential helper {program} gave no answer in {HELPER_TIMEOUT_S:.0f} s",
        )
    if status != 0:
        if _NOT_FOUND in output.lower():
            return None
        raise _malformed(path, host, f"the credential helper {program} failed (exit {status})")
    try:
        data = json.loads(output)
        username, secret = data.get("Username") or "", data.get("Secret") or ""
    except (ValueError, AttributeError, RecursionError):
        data, username, secret = None, None, None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise _malformed(
            path, host, f"the credential helper {program} answered with no credentials"
        )
    if not username and not secret:  # docker-credential-pass says so of what it does not have
        return None
    if username == _TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(username=username, password=secret)


def _run_helper(program: str, server: str, env: Mapping[str, str]) -> tuple[int | None, bytes]:
    """Exit status and output; None for a helper that had to be ended, with all that it started."""
    try:
        process = subprocess.Popen(
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(env),
            start_new_session=True,
        )
    except OSError:
        return 126, b""
    try:
        output, _ = process.communicate(server.encode(), timeout=HELPER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None, b""
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
    return process.returncode, output


def _from_entry(entry: Any, host: str, path: Path) -> Credentials:
    if not isinstance(entry, dict):
        raise _malformed(path, host, "it is no JSON object")
    keys = ("auth", "username", "password", "identitytoken", "registrytoken")
    values = {key: entry[key] for key in keys if entry.get(key) is not None}
    wrong = [key for key, value in values.items() if not isinstance(value, str)]
    if wrong:
        raise _malformed(path, host, f"{wrong[0]} is no text")
    if values.get("identitytoken"):
        return Credentials(identity_token=values["identitytoken"])
    if values.get("auth"):
        username, password = _decode(values["auth"], host, path)
        return Credentials(username=username, password=password)
    if values.get("username") and "password" in values:
        return Credentials(username=values["username"], password=values["password"])
    if values.get("registrytoken"):
        raise _malformed(path, host, "it has a registrytoken only, which bake does not use")
    if values:
        what = "its auth is empty" if "auth" in values else f"it has {', '.join(values)} only"
        raise _malformed(path, host, what)
    return Credentials()


def _decode(text: str, host: str, path: Path) -> tuple[str, str]:
    """User and password of an `auth`: base64, perhaps wrapped, without padding, or of URLs' alphabet."""
    plain = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        decoded = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
        username, colon, password = decoded.decode().rstrip("\0").partition(":")
    except (binascii.Error, ValueError) as error:
        raise _malformed(path, host, "its auth is no base64 of text") from error
    if not colon or not (username or password):
        raise _malformed(path, host, "its auth is not the base64 of user:password")
    return username, password


def _unreadable(path: Path, reason: str) -> PushError:
    return PushError(
        f"the docker config cannot be read: {reason}; nothing was sent",
        where=str(path),
        hint="mend the file, or move it away and `docker login` again",
    )


def _malformed(path: Path, host: str, reason: str) -> PushError:
    return PushError(
        f"the docker config has no credentials to be used for {host}: {reason}; nothing was sent",
        where=str(path),
        hint=f"docker logout {host}, then docker login {host} again, or mend the file by hand",
    )
