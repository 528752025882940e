"""How a command ends: an error's words and its exit code, for `main` and for each of several manifests."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import click

from bake.errors import BakeError, MachineError

_OF_THE_MACHINE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EBUSY,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG,
    errno.EIO, errno.ESTALE, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS,
    errno.ENOMEM, errno.EMFILE, errno.ENFILE,
)  # fmt: skip
"""What a file that is written anywhere can fail with and no code of ours can mend: a full or a failing disk, a file
where a folder is to be, a network's file system that knows no locks."""
_LOOK_AT_ENGINE = "see whether it answers (docker info) and what its log says, then run this again"
_BUG = (
    "a fault of bake itself, not of what it was asked for: {kind}",
    "run it again with --debug, and report what it prints",
)


@dataclass
class State:
    """What the command line says to `main` itself."""

    debug: bool = False


class Terminated(BaseException):
    """SIGTERM, raised so that every context manager cleans up on the way out."""


def say_failure(error: Exception, *, debug: bool, prefix: str = "") -> int:
    """Says what is wrong on stderr; with `debug`, also where it comes from. Returns the exit code.

    Args:
        error: Whatever a command raised.
        debug: Show causes and tracebacks, with tokens masked.
        prefix: Begins each line.
    """
    known = error if isinstance(error, BakeError) else _as_bake_error(error)
    text = f"error: {known}"
    if debug:
        import traceback  # noqa: PLC0415  # not needed on the good way

        from bake.secrets import mask_secrets  # noqa: PLC0415

        text = mask_secrets("".join(traceback.format_exception(error))) + text
    click.echo("\n".join(prefix + line for line in text.split("\n")), err=True)
    return known.exit_code


def _as_bake_error(error: Exception) -> BakeError:
    """What a disk or the engine refuses is the machine's fault, all else that no code of ours expected is ours."""
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return MachineError(
            f"cannot be used: {error.strerror}",
            where=str(error.filename or "a file that bake writes"),
            hint="give bake a folder that it can write, on a disk of this machine: BAKE_STORE, BAKE_CACHE, --build-dir, TMPDIR",
        )
    origin = type(error).__module__.partition(".")[0]
    if origin == "docker":
        from bake.image.engine.docker import reason_of  # noqa: PLC0415  # it is loaded already

        reason = reason_of(error).partition("\n")[0]
        return MachineError(
            f"the Docker Engine refuses, or has an error: {reason[:300]}", hint=_LOOK_AT_ENGINE
        )
    if origin in ("requests", "urllib3"):
        # Those of sources and registries have words of their own.
        return MachineError(
            f"a connection broke ({type(error).__name__}), most likely the Docker Engine's",
            hint=_LOOK_AT_ENGINE,
        )
    what, hint = _BUG
    return BakeError(what.format(kind=type(error).__name__), hint=hint)
