"""`bake deploy`."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import click

from bake.cli.options import build_dir_option, json_option, manifest_argument, quiet_option
from bake.cli.subject import find_baked, pushed_reference
from bake.console import Console
from bake.deploy.client import Endpoint, RunpodClient, connect
from bake.deploy.deploy import (
    Undertaking,
    carry_out,
    change_event,
    describe,
    may_proceed,
    plan_deploy,
    plan_rollback,
    registry_id,
)
from bake.deploy.desired import ROOM_GB, desired_endpoint, disk_for
from bake.deploy.release import wait_for_release
from bake.errors import BuildError, ManifestError, PushError
from bake.image.oci.reference import Reference, parse_reference
from bake.image.registry.client import RegistryClient
from bake.image.registry.credentials import Credentials
from bake.lock import lock_path, read_lock
from bake.manifest.load import load_manifest
from bake.manifest.model import Manifest
from bake.settings import Settings

_BASE_GB = 12
"""Of Dockerfile.base and the worker's own layers, unpacked; docs/images.md has the sizes."""


@click.command()
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done. Without a key: what would be made."
)
@click.option("--yes", "-y", is_flag=True, help="Ask nothing.")
@click.option("--overwrite", is_flag=True, help="Also overwrite what was edited by hand.")
@click.option(
    "--rollback", is_flag=True, help="Go back to the image before, and change nothing else."
)
@click.option(
    "--image", "chosen", metavar="REPOSITORY@DIGEST", help="Another image than the last bake's."
)
@click.option("--no-wait", is_flag=True, help="Do not wait for a picture of the new release.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(1),
    default=1800,
    show_default=True,
    help="Longest wait, in seconds.",
)
@build_dir_option
@quiet_option
@json_option
@manifest_argument
def command(
    manifest: Path,
    *,
    dry_run: bool,
    yes: bool,
    overwrite: bool,
    rollback: bool,
    chosen: str | None,
    no_wait: bool,
    timeout_s: int,
    build_dir: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make or change the RunPod endpoint of MANIFEST, and draw a picture with it.

    The image is the last bake's, pushed before, by its digest. What would change is shown first, and asked
    for. The key is in RUNPOD_API_KEY, or in the file that RUNPOD_API_KEY_FILE names.
    """
    console = Console(as_json=as_json, quiet=quiet)
    loaded, settings = load_manifest(manifest), Settings.from_environment()
    image, disk_gb = _image(
        loaded, chosen, build_dir, is_needed=not (dry_run or rollback), console=console
    )
    if dry_run and not settings.runpod_token:
        desired = desired_endpoint(loaded, image=image, disk_gb=disk_gb)
        _show(Undertaking(desired=desired, endpoint=None, changes=()), console)
        console.warn("RUNPOD_API_KEY is not set: not compared with what is there")
        return
    with connect(settings) as client:
        if rollback:
            what = plan_rollback(client, loaded.deploy.name or loaded.name)
        else:
            registry = registry_id(client, loaded.deploy.registry)
            desired = desired_endpoint(loaded, image=image, disk_gb=disk_gb, registry=registry)
            what = plan_deploy(client, desired)
        _show(what, console)
        if dry_run:
            return
        if what.endpoint is None or what.changes:
            is_terminal = sys.stdin.isatty() and not as_json
            if not may_proceed(
                what, yes=yes, overwrite=overwrite, is_terminal=is_terminal, ask=click.confirm
            ):
                raise click.Abort
        with console.step("deploy", what.desired.name):
            endpoint = carry_out(client, what, console=console)
        console.event("deployed", endpoint=endpoint.id, image=what.desired.fields["image"])
        if not no_wait:
            picture = build_dir / loaded.name / "deployed.png"
            _wait(client, endpoint, loaded, picture, timeout_s=timeout_s, console=console)
    if not as_json:
        click.echo(f"{endpoint.id} {what.desired.fields['image']}")


def _show(what: Undertaking, console: Console) -> None:
    for change in what.changes:
        console.event("change", **change_event(change))
    if not console.as_json:
        click.echo("\n".join(describe(what)))


def _wait(
    client: RunpodClient,
    endpoint: Endpoint,
    manifest: Manifest,
    picture: Path,
    *,
    timeout_s: int,
    console: Console,
) -> None:
    if not manifest.deploy.workers.max:
        console.warn("no test job: no worker may start")
        return
    with console.step("test job", "a worker of the new release draws the warm-up's picture"):
        served = wait_for_release(
            client, endpoint, manifest.warmup, timeout_s=timeout_s, console=console
        )
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(served.picture)
    console.event(
        "served",
        worker=served.worker,
        waited_s=served.waited_s,
        drew_s=served.drew_s,
        picture=str(picture),
    )
    console.say(
        f"worker {served.worker or 'of the new release'}: waited {served.waited_s:.1f} s for it (the cold start), drew in {served.drew_s:.1f} s, {picture}"
    )


def _image(
    manifest: Manifest,
    chosen: str | None,
    build_dir: Path,
    *,
    is_needed: bool,
    console: Console,
) -> tuple[str, int]:
    """The image by digest, and the GB of disk that a container of it takes.

    Raises:
        ManifestError: what was chosen has no digest, or is not in the registry.
    """
    if chosen:
        reference = parse_reference(chosen)
        if not reference.digest:
            raise ManifestError(
                "an endpoint's image is given by digest",
                where="--image",
                hint="bake inspect REFERENCE says it",
            )
        return str(reference.at(reference.digest)), _guess_disk(manifest)
    try:
        baked = find_baked(str(manifest.path), build_dir=build_dir)
    except BuildError:
        if is_needed:
            raise
        baked = None
    if baked is None:
        return f"{manifest.image}@(digest of the bake)", _guess_disk(manifest)
    if is_needed:
        reference = pushed_reference(str(manifest.path), build_dir=build_dir)
        need_pushed(reference, manifest, console)
        return str(reference), disk_for(baked.image)
    if baked.pushed_digest is None:
        return f"{manifest.image}@(digest of the push)", disk_for(baked.image)
    return str(parse_reference(baked.reference).at(baked.pushed_digest)), disk_for(baked.image)


def need_pushed(reference: Reference, manifest: Manifest, console: Console) -> None:
    """Asks the registry as ourselves, and as whom RunPod is to it."""
    with RegistryClient(reference.host) as registry:
        if registry.manifest_digest(reference) is None:
            raise ManifestError(
                "the registry does not have this image",
                where=str(reference),
                hint=f"bake push {manifest.path}",
            )
    if manifest.deploy.registry is None and (why := _hidden(reference)):
        # Nothing else says so: the jobs wait in the queue (github.com/runpod/docs/issues/800).
        console.warn(
            f"{reference.host}/{reference.repository} cannot be read without a login ({why}), and deploy.registry "
            "names no credential for it: unless the endpoint has one, no worker will get the image"
        )


def _hidden(reference: Reference) -> str:
    """Why the registry does not show an image to strangers; empty where it does."""
    try:
        with RegistryClient(reference.host, credentials=Credentials()) as registry:
            return "" if registry.manifest_digest(reference) else "there is none, it says"
    except PushError as error:
        return error.what


def _guess_disk(manifest: Manifest) -> int:
    """From the lock's weights, where the image itself is not here."""
    lock = read_lock(lock_path(manifest.path))
    size_bytes = sum(each.size_bytes or 0 for each in lock.pins) if lock else 0
    return _BASE_GB + ROOM_GB + math.ceil(size_bytes / 1e9)
