"""A download over TLS: the certificate is checked against the name, whatever address that has."""

import hashlib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bake.weights.context import to_bake_error
from bake.weights.transfer.download import run_download
from bake.weights.transfer.judge import Options
from bake.weights.transfer.partial import PartFile
from bake.weights.transfer.remote import Remote
from runtime.files.errors import WeightsError
from runtime.files.fetch import fetch_url
from runtime.files.http import Client, Credentials, Timeouts
from runtime.files.policy import HostPolicy
from tests.standins import models
from tests.standins.http_server import Server
from tests.standins.storage import Blob, Storage

DATA = models.safetensors(models.SDXL, padding_bytes=300_000)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    file = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost"]
    done = subprocess.run(
        [*command.split(), *names, "-keyout", tmp_path / "key.pem", "-out", file],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return file


@pytest.fixture
def server(certificate: Path) -> Iterator[Server]:
    storage = Storage(blobs={"x.safetensors": Blob(data=DATA)})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    storage.server.socket = context.wrap_socket(storage.server.socket, server_side=True)
    yield storage.server
    storage.close()


def download(url: str, part: Path, ca_bundle: Path | None, token: str = "") -> str:
    client = Client(
        HostPolicy(loopback=True),
        ca_bundle=str(ca_bundle) if ca_bundle else None,
        credentials=Credentials(origin=url, value=token) if token else None,
    )
    with client:
        return run_download(Remote(client, url), PartFile(part), Options(connections=3))


def test_a_trusted_server(server: Server, certificate: Path, tmp_path: Path) -> None:
    part = tmp_path / "there" / "x.part"
    url = f"https://localhost:{server.server_port}/plain/x.safetensors?secret=1"
    assert download(url, part, certificate) == hashlib.sha256(DATA).hexdigest()
    assert part.read_bytes() == DATA


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_an_untrusted_server_or_name(
    server: Server, certificate: Path, tmp_path: Path, host: str
) -> None:
    origin = f"https://{host}:{server.server_port}"
    with pytest.raises(WeightsError, match="certificate is not trusted here") as raised:
        download(
            f"{origin}/plain/x.safetensors",
            tmp_path / "x.part",
            certificate if host == "127.0.0.1" else None,
            "s3cret",
        )
    assert raised.value.kind == "tls"
    assert "BAKE_CA_BUNDLE" in str(to_bake_error(raised.value))
    with pytest.raises(WeightsError, match="certificate is not trusted here"):
        fetch_url(
            f"{origin}/plain/x.safetensors",
            tmp_path / "x.safetensors",
            policy=HostPolicy(loopback=True),
            timeouts=Timeouts(),
        )
    assert server.requests == []
    assert not (tmp_path / "x.safetensors").exists()


def test_a_worker_does_not_reach_this_machine(server: Server, tmp_path: Path) -> None:
    for host in ("localhost", "127.0.0.1", "[::1]"):
        with pytest.raises(WeightsError) as raised:
            fetch_url(
                f"https://{host}:{server.server_port}/plain/x.safetensors",
                tmp_path / "x.safetensors",
                policy=HostPolicy(),
                timeouts=Timeouts(),
            )
        assert raised.value.kind == "host"
    assert server.requests == []
