"""The one gateway to git: reads a commit of a repository somewhere, and nothing of this machine's configuration.

Nothing is ever checked out: no hook, filter or attribute of a repository gets a say in what is read of it.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bake.certificates import trusted_certificates
from bake.errors import BakeError, MachineError, SourceError
from bake.process import CommandError, capture_command
from bake.settings import Settings
from runtime.files.errors import WeightsError
from runtime.files.policy import HostPolicy, is_loopback_host, show_url

_TIMEOUT_S = 1800
_LARGEST_BYTES = 256 << 20
_PASSED_ON = re.compile(r"PATH|HOME|TMPDIR|LANG|LC_\w+|(?i:(HTTPS?|NO|ALL)_PROXY)")
_REASONS: tuple[tuple[str, str, str | None], ...] = (
    (
        r"could not read Username|Authentication failed|returned error: 40[13]|terminal prompts disabled",
        "there is no such repository, or it is private",
        "check the address; BAKE_GIT_CREDENTIALS names a file with a private one's credentials",
    ),
    (r"returned error: 404|repository .* not found|does not appear to be a git repo", "there is no such repository", "check the address"),
    (r"returned error: 30\d|[Rr]edirect", "the repository has moved", "write the address that a browser ends at"),
    (r"not our ref|couldn't find remote ref|no such ref|unadvertised object|not a valid object|bad object",
     "the repository has no such commit",
     "copy all 40 digits from its page; of a `ref` it may be gone with what the branch was before: bake update MANIFEST"),
    (r"Could not resolve host|Couldn't resolve host", "the name of its host is not known", "check the address, and the network"),
    (r"certificate|SSL", "the server's certificate is not trusted here", "name your network's certificates in BAKE_CA_BUNDLE"),
    (r"dubious ownership", "git does not trust the owner of this repository", "give it to the user that bakes: chown -R"),
    (r"No space left", "the disk is full", None),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a commit, as git lists it."""

    mode: str
    """`100644`, `100755`, `120000` (a symbolic link) or `160000` (a submodule)."""
    object_id: str
    path: str
    size_bytes: int


class Repository:
    """A repository that is asked for single commits; what it sends lies in a folder of its own meanwhile."""

    def __init__(self, url: str, *, folder: Path, settings: Settings, work: Path, key: str) -> None:
        self._url = _local_path(url, folder) if url.startswith("file:") else url
        self._key = key
        self._shown = url if url.startswith("file:") else show_url(url)
        self._work = work
        self._settings = settings
        self._options = _options(url, settings, key)

    def resolve(self, ref: str) -> str:
        """The commit that a tag or branch stands for now; of two of that name, the tag's.

        Raises:
            SourceError: there is neither, or the repository does not answer.
        """
        names = [f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}"]
        listed = self._git("ls-remote", "--", self._url, *names).decode("utf-8", "replace")
        found = dict(line.split("\t")[::-1] for line in listed.splitlines() if "\t" in line)
        commit = next((found[name] for name in names if name in found), None)
        if commit is None or not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise self._error(f"has no tag or branch {ref}", "look at its page for what there is")
        return commit

    def head(self) -> str:
        """The commit of the branch that the repository's page shows.

        Raises:
            SourceError: it has none, or the repository does not answer.
        """
        listed = self._git("ls-remote", "--", self._url, "HEAD").decode("ascii", "replace")
        commit = listed.partition("\t")[0]
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise self._error("has no commit", "look at its page for what there is")
        return commit

    def fetch(self, commit: str) -> list[Entry]:
        """Brings the commit, and lists its files.

        Raises:
            SourceError: the repository does not have it, or does not answer.
        """
        self._git("init", "--quiet", "--bare", str(self._work))
        fetch = ("--git-dir", str(self._work), "fetch", "--quiet", "--no-tags")
        try:
            self._git(*fetch, "--depth=1", "--", self._url, commit)
        except _Refused:
            # A server that gives single commits to nobody, or knows no shallow ones, gives its branches.
            self._git(*fetch, "--", self._url, "+refs/*:refs/theirs/*")
        listed = self._read("ls-tree", "-r", "-z", "--full-tree", "--long", f"{commit}^{{commit}}")
        return [self._entry(each) for each in listed.split(b"\0") if each]

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        """What is in files that `fetch` has listed, in their order."""
        names = "".join(f"{each.object_id}\n" for each in entries).encode()
        data, at = self._read("cat-file", "--batch", stdin=names), 0
        for entry in entries:
            header, _, _ = data[at : at + 200].partition(b"\n")
            at += len(header) + 1
            yield data[at : at + entry.size_bytes]
            at += entry.size_bytes + 1

    def _entry(self, line: bytes) -> Entry:
        about, _, path = line.partition(b"\t")
        mode, _, object_id, size = about.decode("ascii").split()
        try:
            name = path.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._error("has a file whose name is not UTF-8", None) from error
        return Entry(
            mode=mode, object_id=object_id, path=name, size_bytes=0 if size == "-" else int(size)
        )

    def _read(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return self._git("--git-dir", str(self._work), *arguments, stdin=stdin)

    def _git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        command = ["git", *self._options, *arguments]
        try:
            return capture_command(
                command,
                environment=self._environment(),
                stdin=stdin,
                timeout_s=_TIMEOUT_S,
                most_bytes=_LARGEST_BYTES,
            )
        except CommandError as error:
            raise self._refused(error.last_lines) from error
        except TimeoutError as error:
            raise self._error("did not send it in time", "try again later") from error
        except OverflowError as error:
            raise self._error(f"sends more than {_LARGEST_BYTES >> 20} MiB", None) from error
        except FileNotFoundError as error:
            raise MachineError("git is not installed", hint="apt-get install git") from error

    def _environment(self) -> dict[str, str]:
        own = {
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_ALLOW_PROTOCOL": "file:http:https",
            "GIT_HTTP_LOW_SPEED_LIMIT": "1",
            "GIT_HTTP_LOW_SPEED_TIME": str(int(self._settings.stall_s)),
            "LC_ALL": "C",
        }
        if certificates := trusted_certificates(self._settings):
            own["GIT_SSL_CAINFO"] = str(certificates)
        kept = {key: value for key, value in os.environ.items() if _PASSED_ON.fullmatch(key)}
        return {**kept, **own}

    def _refused(self, lines: Sequence[str]) -> BakeError:
        said = " ".join(lines)
        for pattern, what, hint in _REASONS:
            if re.search(pattern, said, re.IGNORECASE):
                return _Refused(what, where=self._where, hint=hint)
        last = next((each for each in reversed(lines) if each.startswith("fatal:")), "")
        words = last.removeprefix("fatal:").strip()[:200].replace(str(self._work), "…")
        return _Refused(f"git cannot fetch it: {words or 'it says nothing'}", where=self._where)

    def _error(self, what: str, hint: str | None) -> SourceError:
        return SourceError(f"the repository {what}", where=self._where, hint=hint)

    @property
    def _where(self) -> str:
        return f"{self._key} ({self._shown})"


class _Refused(SourceError):  # noqa: N818  # one of bake's errors, with git's reason
    """git ended with another status than 0."""


@contextmanager
def open_repository(
    url: str, *, folder: Path, settings: Settings, key: str
) -> Iterator[Repository]:
    """A repository; what is fetched of it is gone afterwards.

    Args:
        url: The manifest's: https, http on loopback, or `file:`.
        folder: The manifest's, where a relative `file:` starts.
        settings: Certificates, credentials, patience.
        key: The manifest's, for messages.

    Raises:
        SourceError: its host is none that may be asked.
    """
    with tempfile.TemporaryDirectory(prefix="bake-git-") as scratch:
        work = Path(scratch) / "repository.git"
        yield Repository(url, folder=folder, settings=settings, work=work, key=key)


def _local_path(url: str, folder: Path) -> str:
    path = url[len("file:") :]
    return str((folder / (path[2:] if path.startswith("//") else path)).absolute())


def _options(url: str, settings: Settings, key: str) -> list[str]:
    options = {
        "http.followRedirects": "false",
        "transfer.fsckObjects": "true",
        "protocol.version": "2",
        "gc.auto": "0",
        "credential.helper": "",
    }
    if not url.startswith("file:"):
        options |= _pinned_host(url, key)
    if settings.git_credentials is not None:
        # Only asked, never told: git's own helper would write into the file.
        file = shlex.quote(str(settings.git_credentials))
        ask = f'!f() {{ [ "$1" = get ] && git credential-store --file {file} get; }}; f'
        options["credential.helper"] = ask
    return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]


def _pinned_host(url: str, key: str) -> dict[str, str]:
    """Judges the host's addresses, and has git connect to none but those (git 2.37 and later)."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    policy = HostPolicy(loopback=is_loopback_host(host), private_hosts=(host,))
    try:
        policy.check_url(url)
        if _is_proxied(parts.scheme, host):
            return {}
        addresses = [address for _, (address, _) in policy.resolve(host, port)]
    except WeightsError as error:
        raise SourceError(error.what, where=key) from error
    except OSError as error:
        what = "the name of its host is not known"
        raise SourceError(what, where=key, hint="check the address, and the network") from error
    shown = ",".join(f"[{each}]" if ":" in each else each for each in addresses)
    return {"http.curloptResolve": f"{host}:{port}:{shown}"}


def _is_proxied(scheme: str, host: str) -> bool:
    proxies = urllib.request.getproxies_environment()
    has_one = bool(proxies.get(scheme) or proxies.get("all"))
    return has_one and not urllib.request.proxy_bypass(host)
