"""Weights go from their source to a registry, with no store between, though both connections break."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from pathlib import Path, PurePosixPath

import pytest

from bake.errors import SourceError
from bake.image.final.assemble import ImageConfig, assemble
from bake.image.oci.layers import PlacedFile, make_weights_layer
from bake.image.oci.model import BytesContent, sha256_digest
from bake.image.oci.streamed import StreamedFile, StreamedLayer
from bake.image.registry.client import RegistryClient
from bake.image.registry.credentials import Credentials
from bake.image.registry.push import push_image, push_stream
from bake.image.registry.upload import Blob, Uploader
from bake.weights.streamed import read_remote, stream_pin
from bake.weights.transfer.remote import Remote
from runtime.files.http import Client, Timeouts
from runtime.files.policy import HostPolicy
from runtime.retry import Retry
from tests.integration.registry_case import (
    CONSOLE,
    QUICK,
    fetch_and_compare,
    make_base_image,
)
from tests.integration.weights_case import VERSION, open_case
from tests.standins import models
from tests.standins.registry import (
    Action,
    Cut,
    Seen,
    faulty_registry,
)


def make_stream(url: str, content: bytes, *, sha256: str = "") -> StreamedLayer:
    client = Client(HostPolicy(loopback=True), timeouts=Timeouts(stall_s=120))
    file = StreamedFile(
        path=PurePosixPath("/models/streamed.safetensors"),
        size_bytes=len(content),
        sha256=sha256 or hashlib.sha256(content).hexdigest(),
        open_at=read_remote(Remote(client, url), retry=Retry(backoff_s=0.01)),
        where="the source",
    )
    return StreamedLayer(files=[file])


def put_source(registry: str, repository: str, content: bytes) -> str:
    """Makes the registry serve a file, as a source of weights. Returns the path."""
    with RegistryClient(registry, options=QUICK, credentials=Credentials()) as client:
        digest = Uploader(client=client, repository=repository).upload(
            Blob(
                content=BytesContent(data=content),
                size_bytes=len(content),
                digest=lambda: sha256_digest(content),
            )
        )
    return f"/v2/{repository}/blobs/{digest}"


def test_weights_are_streamed_from_their_source_without_a_store(
    registry: str, repository: str, tmp_path: Path
) -> None:
    """Both the download and the upload break on the way."""
    content = random.Random(5).randbytes(3 << 20)
    path = put_source(registry, f"{repository}-source", content)

    def cut_download(seen: Seen) -> Action:
        if seen.method == "GET" and seen.number == 1:
            return Cut(after_bytes=0, after_answer_bytes=1 << 20, loses_answer=False)
        return None

    def cut_upload(seen: Seen) -> Action:
        if seen.method == "PATCH" and seen.number == 1:
            return Cut(after_bytes=2_000_000, keeps_bytes=True)
        return None

    with (
        faulty_registry(registry, cut_download) as source,
        faulty_registry(registry, cut_upload) as target,
        RegistryClient(target.host, options=QUICK, credentials=Credentials()) as client,
    ):
        stream = make_stream(f"http://{source.host}{path}", content)
        reference = f"{target.host}/{repository}:1"
        descriptor = push_stream(stream, reference, console=CONSOLE, client=client)
        image = assemble(
            make_base_image(),
            layers=[stream.as_layer(descriptor)],
            config=ImageConfig(entrypoint=["/w"]),
        )
        report = push_image(image, reference, console=CONSOLE, client=client)
    assert [layer.how for layer in report.layers] == ["uploaded", "present"]
    fetch_and_compare(image, f"{registry}/{repository}:1")
    stored = tmp_path / "stored"
    stored.write_bytes(content)
    file = stream.files[0]
    placed = PlacedFile(path=file.path, source=stored, size_bytes=len(content), sha256="0" * 64)
    assert make_weights_layer([placed]).digest == descriptor.digest


def test_a_streamed_file_that_is_not_the_locked_one_leaves_nothing(
    registry: str, repository: str
) -> None:
    content = random.Random(6).randbytes(300_000)
    path = put_source(registry, f"{repository}-source", content)
    stream = make_stream(f"http://{registry}{path}", content, sha256="0" * 64)
    with (
        faulty_registry(registry) as target,
        RegistryClient(target.host, options=QUICK, credentials=Credentials()) as client,
    ):
        with pytest.raises(SourceError, match="the source: the file has another SHA256"):
            push_stream(stream, f"{target.host}/{repository}:1", console=CONSOLE, client=client)
        methods = [seen.method for seen in target.seen]
    assert "PUT" not in methods, "an upload of wrong bytes was closed"
    assert methods[-1] == "DELETE"


def test_a_pin_is_streamed_from_its_source_or_from_the_store(
    registry: str, repository: str, tmp_path: Path
) -> None:
    path = PurePosixPath("/models/a.safetensors")
    digests = []
    with open_case(tmp_path) as case:
        case.add_civitai(models.safetensors(models.SDXL, seed=9))
        pin = case.pin(f"civitai:{VERSION}")
        for number in range(2):
            with (
                RegistryClient(registry, options=QUICK, credentials=Credentials()) as client,
                stream_pin(
                    pin, path, settings=case.settings, store=case.store, console=CONSOLE
                ) as file,
            ):
                stream = StreamedLayer(files=[file])
                reference = f"{registry}/{repository}-{number}:1"
                digests.append(push_stream(stream, reference, console=CONSOLE, client=client))
            assert len(case.stored()) == number
            case.fetch(pin)
        placed = PlacedFile(
            path=path,
            source=case.store.path_of(pin.sha256),
            size_bytes=pin.size_bytes or 0,
            sha256=pin.sha256,
        )
        assert make_weights_layer([placed]).as_layer().descriptor == digests[0] == digests[1]
        unknown = dataclasses.replace(pin, size_bytes=None)
        with (
            pytest.raises(SourceError, match="does not say how long the file is"),
            stream_pin(unknown, path, settings=case.settings, store=case.store, console=CONSOLE),
        ):
            pass
