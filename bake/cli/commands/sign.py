"""`bake sign`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bake.cli.options import build_dir_option, json_option, quiet_option, trust_config_option
from bake.cli.subject import pushed_reference
from bake.console import Console
from bake.errors import ManifestError
from bake.image.registry.client import RegistryClient
from bake.settings import Settings

if TYPE_CHECKING:
    from bake.image.sign.signer import Signer


@click.command()
@click.argument("what", metavar="IMAGE@DIGEST|MANIFEST")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="Sign with this private key (PEM, ECDSA on P-256) instead of an OIDC token.",
)
@trust_config_option
@build_dir_option
@quiet_option
@json_option
def command(
    what: str, *, key: Path | None, trust_config: Path | None, build_dir: Path, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Sign a pushed image, its provenance and its bill of materials, as cosign does and verifies.

    Without --key it is signed as whoever this CI job's OIDC token names (keyless): who signed is then in a
    public log. The signatures lie beside the image in its registry; the image stays as it is.
    """
    from bake.image.sign.image import sign_image  # noqa: PLC0415  # the extra `sign`

    console = Console(as_json=as_json, quiet=quiet)
    reference = pushed_reference(what, build_dir=build_dir)
    if not reference.digest:
        raise ManifestError(
            f"{reference} may be another image tomorrow: what is signed is a digest",
            hint=f"bake inspect {reference} says which it is; then bake sign {reference.host}/{reference.repository}@sha256:…",
        )
    with (
        RegistryClient(reference.host) as client,
        _signer(key, trust_config) as signer,
        console.step("sign", str(reference)),
    ):
        statements = sign_image(client, reference, signer=signer, console=console)
    if not as_json:
        for statement in statements:
            click.echo(f"signed   {statement.kind}")
        click.echo(str(reference))


@contextmanager
def _signer(key: Path | None, trust_config: Path | None) -> Iterator[Signer]:
    settings = Settings.from_environment()
    if key:
        from bake.image.sign.keys import read_signing_key  # noqa: PLC0415

        yield read_signing_key(key, settings.signing_password)
        return
    from bake.image.sign.keyless import open_signer  # noqa: PLC0415

    with open_signer(settings.sigstore_token, trust_config) as signer:
        yield signer
