"""`bake verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bake.cli.options import (
    build_dir_option,
    fail_fast_option,
    json_option,
    quiet_option,
    trust_config_option,
)
from bake.cli.several import run_each
from bake.cli.subject import Opened, Place, open_image, pushed_reference
from bake.console import Console
from bake.errors import BuildError, MachineError, ManifestError, VerifyError
from bake.image.engine.docker import Engine
from bake.image.kept import Kept
from bake.image.verify.image import verify_image
from bake.image.verify.verdict import Check, Verdict
from bake.image.verify.worker import read_worker, verify_worker
from bake.lock import read_lock
from bake.settings import Settings

_JOB = {
    "prompt": "portrait photo of an old fisherman, natural light",
    "width": 512,
    "height": 512,
    "steps": 4,
    "seed": 1,
}


@click.command()
@click.argument("subjects", nargs=-1, required=True, metavar="IMAGE|MANIFEST|FOLDER...")
@click.option("--registry", is_flag=True, help="Read IMAGE from its registry, not from the engine.")
@click.option(
    "--lock", "lock_file", type=click.Path(path_type=Path), help="Compare with this lock."
)
@click.option(
    "--signature",
    "who_only",
    is_flag=True,
    help="Say who signed it, and nothing else: see --identity and --key.",
)
@click.option("--identity", help="Who should have signed: an address, or a workflow's URL.")
@click.option("--issuer", help="Who should say so: https://token.actions.githubusercontent.com.")
@click.option(
    "--key", type=click.Path(path_type=Path), help="The public key that should have signed (PEM)."
)
@trust_config_option
@click.option("--no-start", is_flag=True, help="Do not start the worker.")
@click.option(
    "--no-cache",
    "cached",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Look through every layer again, whatever was found in the same bytes before.",
)
@build_dir_option
@fail_fast_option
@quiet_option
@json_option
def command(
    subjects: tuple[str, ...], *, registry: bool, lock_file: Path | None, no_start: bool, cached: bool, build_dir: Path, fail_fast: bool, quiet: bool, as_json: bool,
    who_only: bool, identity: str | None, issuer: str | None, key: Path | None, trust_config: Path | None,
) -> None:  # fmt: skip
    """Check that images hold what their lock says, keep no secret, and serve a picture.

    IMAGE is looked for in the engine, then in its registry; oci:FOLDER[:TAG] is an OCI layout.
    Every byte above the base is read and hashed; what is known of the same bytes from an earlier time
    is not looked for again. A layer of the base is looked through for secrets once. The worker is
    started, with no network, where the engine has the image.

    With --signature its registry is asked who signed it, and no layer is read.
    """
    if who_only:
        from bake.cli.signature import check_signature  # noqa: PLC0415  # the extra `sign`

        def ask(what: str, console: Console) -> None:
            reference = pushed_reference(what, build_dir=build_dir)
            check_signature(reference, identity=identity, issuer=issuer, key=key, trust_config=trust_config, console=console)  # fmt: skip

        run_each(subjects, ask, as_json=as_json, quiet=quiet, fail_fast=fail_fast)
        return
    if identity or issuer or key or trust_config:
        raise ManifestError("--identity, --issuer, --key and --trust-config are about a signature", hint=f"bake verify --signature {subjects[0]}")  # fmt: skip
    if lock_file and len(subjects) > 1:
        raise ManifestError("a lock is for one image", where="--lock", hint="verify them apart")
    lock = read_lock(lock_file) if lock_file else None
    kept = Kept(Settings.from_environment().kept, reads=cached)
    places: list[Place] = ["registry"] if registry else ["engine", "registry"]

    def verify(what: str, console: Console) -> None:
        try:
            with open_image(
                what, build_dir=build_dir, console=console, places=places, kept=kept
            ) as opened:
                verdict = verify_image(
                    opened.image, name=opened.name, console=console, lock=lock, kept=kept
                )
                verdict = _try_worker(what, opened, verdict, console, starts=not no_start)
        except BuildError as error:
            verdict = _unreadable(what, error)
        console.event("verdict", **verdict.as_json())
        console.answer("\n".join(_lines(verdict)))
        failed = [check.name for check in verdict.checks if check.severity == "error"]
        if failed:
            raise VerifyError(f"{len(failed)} check(s) failed: {', '.join(failed)}", where=what)

    run_each(subjects, verify, as_json=as_json, quiet=quiet, fail_fast=fail_fast)


def _try_worker(
    what: str, opened: Opened, verdict: Verdict, console: Console, *, starts: bool
) -> Verdict:
    """The verdict with that on the worker, where an engine here has the image."""
    if opened.place == "registry":
        return verdict.with_check(_not_started(f"docker pull {what} && bake verify {what}"))
    if opened.place == "layout":
        return verdict.with_check(_not_started(f"skopeo copy {what} docker-daemon:NAME:TAG"))
    if not starts or not verdict.is_good:
        return verdict
    if opened.engine:
        return verdict.with_check(_start(opened.engine, what))
    try:
        with Engine(console) as engine:
            for identity in (opened.image.digest, opened.image.config_digest):
                if engine.image_id(identity) == identity:
                    return verdict.with_check(_start(engine, identity))
    except MachineError as error:
        console.say(error.what)
    return verdict.with_check(
        _not_started("bake image MANIFEST gives it to the engine; or pull it")
    )


def _start(engine: Engine, image: str) -> Check:
    worker = read_worker(engine, image)
    return verify_worker(engine, image, worker=worker, job=_JOB, run=f"verify {image}").check


def _not_started(remedy: str) -> Check:
    return Check(
        name="worker",
        severity="warning",
        message="the worker was not started: the image is in no engine here",
        remedy=remedy,
    )


def _unreadable(what: str, error: BuildError) -> Verdict:
    """Of what cannot be read as an image at all: there is a verdict on that too."""
    message = f"{error.where}: {error.what}" if error.where else error.what
    check = Check(name="image", severity="error", message=message, remedy=error.hint or "")
    return Verdict(image=what, digest="", checks=(check,))


def _lines(verdict: Verdict) -> list[str]:
    lines: list[Any] = []
    for check in verdict.checks:
        lines.append(f"{check.severity:<8}{check.name}: {check.message}")
        if check.remedy:
            lines.append(f"        → {check.remedy}")
    known = f": {verdict.digest}" if verdict.digest else ""
    return [*lines, f"{verdict.image} is {'good' if verdict.is_good else 'bad'}{known}"]
