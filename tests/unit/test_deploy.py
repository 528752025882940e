"""The section `deploy` of a manifest, and what it asks of an endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bake.deploy.client import Endpoint, Job
from bake.deploy.desired import (
    MARKER,
    create_body,
    desired_endpoint,
    disk_for,
    find_changes,
    update_body,
)
from bake.errors import ManifestError
from bake.image.oci.model import GZIP_LAYER, RAW_LAYER, Descriptor, Image, Layer
from bake.manifest.gpus import find_gpu, unfit_types
from bake.manifest.load import parse_manifest
from bake.manifest.model import Manifest

IMAGE = f"ghcr.io/you/x@sha256:{'1' * 64}"


def read(deploy: str = "{}", gpu: str = "gpu: rtx-6000-ada") -> Manifest:
    text = (
        f"name: x\nfamily: sd1\n{gpu}\ncheckpoint: civitai:1\nimage: ghcr.io/you/x\n"
        f"warmup: {{prompt: p}}\ndeploy: {deploy}\n"
    )
    return parse_manifest(text, Path("x.yaml"))


@pytest.mark.parametrize(
    ("deploy", "words"),
    [
        ("{pool: [X]}", "deploy.pool: is not a known key; did you mean pools?"),
        ("{type: lb}", "deploy.type"),
        ("{env: {CIVITAI_TOKEN: x}}", "CIVITAI_TOKEN looks like a secret; name it under `secrets`"),
        ("{env: {BUCKET_SECRET_ACCESS_KEY: x}}", "looks like a secret"),
        ("{env: {RUNPOD_X: x}}", "RUNPOD_X cannot be given: RunPod and bake set it"),
        ("{env: {BAKE_DEPLOYED: x}}", "BAKE_DEPLOYED cannot be given"),
        ("{env: {a-b: x}}", "a-b is no name of a variable"),
        ("{env: {BAKERY_OOM: maybe}}", "the worker would not start: BAKERY_OOM='maybe'"),
        ("{env: {BAKERY_OMM: split}}", "BAKERY_OMM is no variable of the worker"),
        ("{secrets: {CIVITAI_TOKEN: 'a b'}}", "a secret is given by its name in RunPod"),
        ("{env: {A: x}, secrets: {A: x}}", "A is under env and under secrets"),
        ("{workers: {min: 3, max: 1}}", "min is above max"),
        ("{scaling: {}}", "give queue_delay or requests, not both"),
        ("{scaling: {queue_delay: 1, requests: 1}}", "give queue_delay or requests, not both"),
        ("{type: load_balancer, scaling: {queue_delay: 1}}", "a load balancer scales by requests"),
        ("{cuda: 12.1}", "deploy.cuda"),
        ("{timeout: 0}", "deploy.timeout"),
    ],
)
def test_mistakes(deploy: str, words: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(deploy)
    assert words in str(caught.value)


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    for deploy in ("{env: {MY_TOKEN: hf_sEcReT}}", "{secrets: {HF_TOKEN: hf-sEcReT-value}}"):
        with pytest.raises(ManifestError) as caught:
            read(deploy)
        assert "sEcReT" not in str(caught.value)


def test_cards() -> None:
    fields = desired_endpoint(read(), image=IMAGE, disk_gb=9).fields
    assert fields["gpu.pools"] == ["ADA_48_PRO"]
    assert fields["gpu.excludedTypes"] == []
    # L40, L40S and RTX 6000 Ada are of one architecture; these two pools hold two.
    assert unfit_types(find_gpu("rtx-a4000")) == (
        "NVIDIA RTX 2000 Ada Generation",
        "NVIDIA RTX 4000 Ada Generation",
    )
    assert unfit_types(find_gpu("rtx-4000-ada")) == ("NVIDIA RTX A4000",)
    for gpu, words in (
        ("gpu: a30", "no pool of RunPod's is known for a30"),
        ("", "there is no `gpu`"),
    ):
        with pytest.raises(ManifestError, match=words):
            desired_endpoint(read(gpu=gpu), image=IMAGE, disk_gb=9)
        assert desired_endpoint(read("{pools: [X]}", gpu), image=IMAGE, disk_gb=9).fields[
            "gpu.pools"
        ] == ["X"]


def test_the_disk_holds_the_image_unpacked() -> None:
    layers = tuple(
        Layer(
            descriptor=Descriptor(media_type=kind, digest=f"sha256:{number:064}", size_bytes=size),
            diff_id=f"sha256:{number:064}",
            content=None,
            kind="base",
        )
        for number, (kind, size) in enumerate(((RAW_LAYER, 6_500_000_000), (GZIP_LAYER, 2 * 10**9)))
    )
    assert disk_for(Image(config_json=b"{}", manifest_json=b"{}", layers=layers)) == 12 + 10


def live(body: dict[str, Any], **changes: Any) -> Endpoint:
    fields = {"gpu": {}, **json.loads(json.dumps(body)), **changes}
    return Endpoint(id="ep", name="x", type="QUEUE", fields=fields, urls={})


def test_an_update_sends_what_changes_and_what_goes_with_it() -> None:
    before = desired_endpoint(read("{excluded: [NVIDIA L40], env: {A: x}}"), image=IMAGE, disk_gb=9)
    endpoint = live(create_body(before))
    assert find_changes(endpoint, before) == []
    after = desired_endpoint(
        read("{pools: [ADA_24], excluded: [NVIDIA L40], workers: {max: 9}}"), image=IMAGE, disk_gb=9
    )
    changes = find_changes(endpoint, after)
    assert [each.field for each in changes] == ["env.A", "gpu.pools", "workers.max"]
    assert not any(each.is_by_hand for each in changes)
    body = update_body(endpoint, changes, after.fields, previous="")
    assert body.pop("env").keys() == {MARKER}
    assert body == {
        # Pools without exclusions would clear those, and workers are one setting.
        "gpu": {"pools": ["ADA_24"], "excludedTypes": ["NVIDIA L40"]},
        "workers": {"min": 0, "max": 9, "idleTimeout": 5},
    }


def test_a_set_of_cuda_versions_that_somebody_chose_gives_way_to_the_floor() -> None:
    desired = desired_endpoint(read(), image=IMAGE, disk_gb=9)
    gpu = {"pools": ["ADA_48_PRO"], "allowedCudaVersions": ["12.8"], "minCudaVersion": None}
    endpoint = live(create_body(desired), gpu=gpu)
    changes = find_changes(endpoint, desired)
    assert {each.field for each in changes if each.is_by_hand} == {
        "gpu.allowedCudaVersions",
        "gpu.minCudaVersion",
    }
    body = update_body(endpoint, changes, desired.fields, previous="")
    # Both at once is refused, and setting one does not clear the other.
    assert body["gpu"] == {"allowedCudaVersions": [], "minCudaVersion": "12.1"}


def test_order_is_no_difference() -> None:
    desired = desired_endpoint(read("{pools: [A, B], volumes: [v, w]}"), image=IMAGE, disk_gb=9)
    gpu = {**create_body(desired)["gpu"], "pools": ["B", "A"]}
    assert (
        find_changes(live(create_body(desired), gpu=gpu, networkVolumes=["w", "v"]), desired) == []
    )


def test_nothing_of_a_client_shows_its_key() -> None:
    from bake.deploy.client import RunpodClient  # noqa: PLC0415

    assert "rpa_x" not in repr(RunpodClient(url="https://x", token="rpa_x"))
    assert Job(id="a", status="IN_QUEUE").worker == ""
