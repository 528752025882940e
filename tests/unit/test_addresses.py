"""What a worker fetches for the address of a LoRA, in every form that people paste."""

import pytest

from bake.secrets import find_credential
from bake.weights.sources import SourceFormError, parse_source
from runtime.files.addresses import CIVITAI, STORAGE_HOSTS, resolve
from runtime.files.errors import WeightsError
from runtime.files.policy import HostPolicy

COMMIT = "740b11ddb4d7999a37069b4c5a3f3f3aeee97644"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("368189", "https://civitai.com/api/download/models/368189"),
        ("civitai:368189+7", "https://civitai.com/api/download/models/368189?fileId=7"),
        ("328553@368189", None),
        (
            "urn:air:sdxl:lora:civitai:328553@368190+99",
            "https://civitai.com/api/download/models/368190?fileId=99",
        ),
        ("AIR:SDXL:LORA:CIVITAI:1@2", "https://civitai.com/api/download/models/2"),
        (
            "https://civitai.com/models/1/a-name?modelVersionId=2",
            "https://civitai.com/api/download/models/2",
        ),
        (
            "https://www.civitai.red/api/download/models/2?type=Model&format=SafeTensor",
            "https://civitai.com/api/download/models/2?type=Model&format=SafeTensor",
        ),
        (
            "https://civitai.green/api/download/models/2?fileId=3&token=mine",
            "https://civitai.com/api/download/models/2?fileId=3&token=mine",
        ),
        (
            "https://hf.co/a/b/blob/main/x%20y.safetensors",
            "https://huggingface.co/a/b/resolve/main/x%20y.safetensors",
        ),
        (
            "https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/x.safetensors?download=true",
            "https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/x.safetensors",
        ),
        (
            f"hf://a/b@{COMMIT}/c/é.safetensors",
            f"https://huggingface.co/a/b/resolve/{COMMIT}/c/%C3%A9.safetensors",
        ),
        ("hf://a/b/x.safetensors", "https://huggingface.co/a/b/resolve/main/x.safetensors"),
        # Weights lie in the repositories of data sets and of programs, too.
        (
            "https://huggingface.co/datasets/a/b/blob/main/x.safetensors",
            "https://huggingface.co/datasets/a/b/resolve/main/x.safetensors",
        ),
        (
            "hf://spaces/a/b@v1/c/x.safetensors",
            "https://huggingface.co/spaces/a/b/resolve/v1/c/x.safetensors",
        ),
        # The oldest repositories have no owner.
        (
            "https://huggingface.co/b/resolve/main/x.safetensors",
            "https://huggingface.co/b/resolve/main/x.safetensors",
        ),
        ("https://a.example/x?sig=1", "https://a.example/x?sig=1"),
    ],
)
def test_what_is_fetched(text: str, address: str | None) -> None:
    if address is None:
        with pytest.raises(WeightsError, match="expected civitai:VERSION"):
            resolve(text)
    else:
        assert resolve(f" {text}\n") == address


def test_mirrors() -> None:
    assert resolve("5", civitai_url="http://127.0.0.1:1") == (
        "http://127.0.0.1:1/api/download/models/5"
    )
    assert resolve("hf://a/b/x", hub_url="https://hub.example") == (
        "https://hub.example/a/b/resolve/main/x"
    )


@pytest.mark.parametrize(
    "text",
    [
        "hf://a/b@main/x/?token=secret",
        "hf://a?token=secret/b/c",
        "https://civitai.com/user/x?token=secret",
        "https://civitai.com/models/1?token=secret",
        "https://user:secret@a.example/x",
        "http://a.example/x?token=secret",
        "ftp://a.example/x?token=secret",
    ],
)
def test_an_error_never_holds_the_text(text: str) -> None:
    with pytest.raises(WeightsError) as raised:
        resolve(text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("end", ["com", "green", "red"])
def test_every_name_of_civitai_and_its_storage_may_be_followed(end: str) -> None:
    policy = HostPolicy(hosts=STORAGE_HOSTS)
    for host in (f"civitai.{end}", f"www.civitai.{end}", f"b2.civitai.{end}", *CIVITAI.hosts):
        policy.check_url(f"https://{host}/x")
    for host in ("f004.backblazeb2.com", "a.r2.cloudflarestorage.com", "hf.co", "cdn-lfs.hf.co"):
        policy.check_url(f"https://{host}/x")
    with pytest.raises(WeightsError):
        policy.check_url(f"https://evil-civitai.{end}/x")


@pytest.mark.parametrize(
    "query",
    [
        "sig=abc",
        "sv=2024&SE=2026-01-01&sr=b",
        "X-Amz-Signature=abc",
        "x-amz-security-token=abc",
        "X-Goog-Credential=abc",
        "x-oss-signature=abc",
        "q-sign-algorithm=sha1",
        "private_token=abc",
        "Private-Token=abc",
        "auth_token=abc",
        "access%5Ftoken=abc",
        "job_token=abc",
        "token=abc",
        "dl=1;token=abc",
        "dl=1&amp;token=abc",
        "key=abc",
        "API-Key=abc",
        "rlkey=abc",
        "subscription-key=abc",
        "Signature=abc",
        "Expires=1",
        "Policy=abc",
        "Key-Pair-Id=abc",
        "AWSAccessKeyId=abc",
        "GoogleAccessId=abc",
        "OSSAccessKeyId=abc",
        "Authorization=abc",
        "temp_url_sig=abc",
        "hdnts=abc",
        "password=abc",
        "client_secret=abc",
        "jwt=abc",
        "st=abc&e=1",
        "verify=1700000000-abc",
        "hmac=abc",
        "x-hmac=abc",
        "code=abc",
        "PHPSESSIONID=abc",
        "ticket=abc",
    ],
)
def test_a_manifest_holds_no_address_with_a_credential(query: str) -> None:
    for text in (f"https://a.example/x.safetensors?{query}", f"https://a.example/x#{query}"):
        with pytest.raises(
            SourceFormError, match=r"is signed or holds a token \(.*write file:path"
        ):
            parse_source(text)
    with pytest.raises(SourceFormError, match="set HF_TOKEN instead") as raised:
        parse_source(f"https://hf.co/a/b/resolve/main/x.safetensors?{query}")
    assert "abc" not in str(raised.value)


@pytest.mark.parametrize(
    "query",
    ["download=true", "dl=1", "raw=1", "versionId=3", "id=7&export=download", "X=1", "file=a.bin"],
)
def test_other_parameters_are_harmless(query: str) -> None:
    assert find_credential(f"https://a.example/x.safetensors?{query}") is None
