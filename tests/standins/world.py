"""CivitAI, Hugging Face and their storage together, with a catalogue that has one of everything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from tests.standins import models
from tests.standins.civitai import Api, Civitai, CivitaiFile, CivitaiModel, CivitaiVersion, Download
from tests.standins.http_server import Request
from tests.standins.huggingface import HuggingFace, Repository, Revision, Trouble
from tests.standins.storage import Blob, Storage

JIB_MIX = 1590699
LORA = 135867
REFUSED = 9000
"""From here on, one version for each way in which a download is refused, in the order of `Download`."""
API_REFUSED = 9100
COMMIT = "1111111111111111111111111111111111111111"
NEWER_COMMIT = "2222222222222222222222222222222222222222"
VAE_REPOSITORY = "madebyollin/sdxl-vae-fp16-fix"


@dataclass(kw_only=True)
class Standins:
    """Servers on loopback; use as a context manager."""

    loud: bool = False
    civitai_port: int = 0
    huggingface_port: int = 0
    storage: Storage = field(init=False)
    civitai: Civitai = field(init=False)
    huggingface: HuggingFace = field(init=False)

    def __post_init__(self) -> None:
        self.storage = Storage(loud=self.loud)
        self.civitai = Civitai(storage=self.storage, loud=self.loud, port=self.civitai_port)
        self.huggingface = HuggingFace(
            storage=self.storage, loud=self.loud, port=self.huggingface_port
        )

    def __enter__(self) -> Standins:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.storage.close()
        self.civitai.server.close()
        self.huggingface.server.close()

    @property
    def environment(self) -> dict[str, str]:
        """What makes `bake` talk to these servers."""
        return {
            "CIVITAI_BASE_URL": self.civitai.server.url,
            "HF_ENDPOINT": self.huggingface.server.url,
        }

    @property
    def requests(self) -> list[Request]:
        """Every request that came, to whichever server."""
        return [
            *self.civitai.server.requests,
            *self.huggingface.server.requests,
            *self.storage.server.requests,
        ]

    def plain_url(self, name: str, blob: Blob) -> str:
        """An ordinary https-like address of a file, unsigned."""
        self.storage.blobs[name] = blob
        return f"{self.storage.server.url}/plain/{name}"


def add_catalogue(world: Standins, *, padding_bytes: int = 0) -> None:
    """The models of README's manifest (with invented bytes), and every refusal."""
    checkpoint = models.safetensors(models.SDXL, seed=1, padding_bytes=padding_bytes)
    lora = models.safetensors(models.LORA_SDXL, seed=2)
    world.civitai.add(
        CivitaiVersion(
            version_id=JIB_MIX,
            model_id=880001,
            name="v2.0",
            files=[
                CivitaiFile(
                    file_id=1490001,
                    name="jibMixIllustriousRealistic_v20.safetensors",
                    blob=Blob(data=checkpoint),
                ),
                CivitaiFile(
                    file_id=1490002,
                    name="jibMixIllustriousRealistic_v20_trainingData.zip",
                    type="Training Data",
                    primary=False,
                    metadata={"format": "Other"},
                    blob=Blob(data=b"PK\x03\x04 training data"),
                ),
            ],
        ),
        CivitaiModel(model_id=880001, name="Jib Mix Illustrious Realistic"),
    )
    world.civitai.add(
        CivitaiVersion(
            version_id=LORA,
            model_id=122359,
            base_model="SDXL 1.0",
            trained_words=["detailed"],
            files=[
                CivitaiFile(file_id=97655, name="add-detail-xl.safetensors", blob=Blob(data=lora))
            ],
        ),
        CivitaiModel(model_id=122359, name="Detail Tweaker XL", type="LORA"),
    )
    for number, download in enumerate(get_args(Download)):
        world.civitai.add(_refused(REFUSED + number, checkpoint, download=download))
    for number, api in enumerate(get_args(Api)):
        world.civitai.add(_refused(API_REFUSED + number, checkpoint, api=api))
    vae = Blob(data=models.safetensors(models.VAE, seed=3))
    world.huggingface.add(
        Repository(
            name=VAE_REPOSITORY,
            card={"license": "mit"},
            revisions=[
                Revision(commit=COMMIT, files={"sdxl_vae.safetensors": vae}),
            ],
        )
    )
    for trouble in get_args(Trouble):
        world.huggingface.add(
            Repository(
                name=f"trouble/{trouble}",
                trouble=trouble,
                renamed_to=VAE_REPOSITORY,
                card={"license": "cc-by-nc-nd-4.0"},
                revisions=[Revision(commit=COMMIT, files={"sdxl_vae.safetensors": vae})],
            )
        )


def _refused(
    version_id: int, data: bytes, *, download: Download = "ok", api: Api = "ok"
) -> CivitaiVersion:
    name = f"{download if download != 'ok' else api}.safetensors"
    return CivitaiVersion(
        version_id=version_id,
        model_id=990000,
        name=name,
        download=download,
        api=api,
        files=[CivitaiFile(file_id=version_id, name=name, blob=Blob(data=data))],
    )
