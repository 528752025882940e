"""Every form in which a manifest may name weights, and what is refused."""

import pytest

from bake.weights.sources import Source, SourceFormError, parse_source

REVISION = "740b11ddb4d7999a37069b4c5a3f3f3aeee97644"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("civitai:1590699", Source(provider="civitai", version_id=1590699)),
        ("civitai:12+34", Source(provider="civitai", version_id=12, file_id=34)),
        (
            "urn:air:sdxl:checkpoint:civitai:827184@2514310+2402203",
            Source(provider="civitai", model_id=827184, version_id=2514310, file_id=2402203),
        ),
        ("URN:AIR:SDXL:LORA:CIVITAI:1@2", Source(provider="civitai", model_id=1, version_id=2)),
        ("civitai:1@2", Source(provider="civitai", model_id=1, version_id=2)),
        (
            "https://civitai.com/models/1/a-name?modelVersionId=2",
            Source(provider="civitai", model_id=1, version_id=2),
        ),
        (
            "https://civitai.com/models/1/a-name?modelVersionId=2&fileId=3",
            Source(provider="civitai", model_id=1, version_id=2, file_id=3),
        ),
        (
            "https://civitai.com/api/download/models/5?type=Model&fileId=7",
            Source(provider="civitai", version_id=5, file_id=7),
        ),
        (
            "https://civitai.com/api/download/models/5?type=Model&format=SafeTensor&fp=fp16&x=1",
            Source(
                provider="civitai",
                version_id=5,
                wanted=(("type", "Model"), ("format", "SafeTensor"), ("fp", "fp16")),
            ),
        ),
        (
            f"hf://a/b@{REVISION}/dir/x.safetensors",
            Source(
                provider="huggingface",
                repository="a/b",
                revision=REVISION,
                path="dir/x.safetensors",
            ),
        ),
        (
            "https://huggingface.co/a/b/blob/main/x%20y.safetensors",
            Source(
                provider="huggingface", repository="a/b", revision="main", path="x y.safetensors"
            ),
        ),
        (
            "https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/x.safetensors?download=true",
            Source(
                provider="huggingface", repository="a/b", revision="refs/pr/1", path="x.safetensors"
            ),
        ),
        (
            "https://huggingface.co/a/b/raw/refs/pr/1/c/x.safetensors",
            Source(
                provider="huggingface",
                repository="a/b",
                revision="refs/pr/1",
                path="c/x.safetensors",
            ),
        ),
        (
            "https://huggingface.co/datasets/a/b/resolve/main/c/x.safetensors",
            Source(
                provider="huggingface",
                repository="datasets/a/b",
                revision="main",
                path="c/x.safetensors",
            ),
        ),
        (
            f"hf://datasets/a/b@{REVISION}/x.safetensors",
            Source(
                provider="huggingface",
                repository="datasets/a/b",
                revision=REVISION,
                path="x.safetensors",
            ),
        ),
        (
            "hf://a/b@refs/pr/1/x.safetensors",
            Source(
                provider="huggingface", repository="a/b", revision="refs/pr/1", path="x.safetensors"
            ),
        ),
        (
            "hf://a/b@feature%2Fx/y%20z.safetensors",
            Source(
                provider="huggingface",
                repository="a/b",
                revision="feature/x",
                path="y%20z.safetensors",
            ),
        ),
        (
            f"hf://a/b@{REVISION.upper()}/x.safetensors",
            Source(
                provider="huggingface", repository="a/b", revision=REVISION, path="x.safetensors"
            ),
        ),
        ("urn:air:sd-xl:lo-ra:civitai:1@2", Source(provider="civitai", model_id=1, version_id=2)),
        ("https://civitai.com/model-versions/2", Source(provider="civitai", version_id=2)),
        ("https://civitai.com/api/v1/model-versions/2", Source(provider="civitai", version_id=2)),
        ("https://host/x.safetensors", Source(provider="https", url="https://host/x.safetensors")),
        ("http://127.0.0.1:1/x", Source(provider="https", url="http://127.0.0.1:1/x")),
        ("file:a/b.safetensors", Source(provider="file", path="a/b.safetensors")),
        ("file:///a/b.safetensors", Source(provider="file", path="/a/b.safetensors")),
    ],
)
def test_known_forms(text: str, expected: Source) -> None:
    assert parse_source(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1590699", "did you mean civitai:1590699"),
        ("file:~/x.safetensors", "file: knows no ~; write a path from the root"),
        ("civitai:12@368189.safetensor", "glued to the id; write civitai:368189"),
        ("civitai:12@368189+7.safetensor", r"glued to the id; write civitai:368189\+7"),
        ("civitai:" + "9" * 5000, "not a known source"),
        ("https://civitai.com/models/1?modelVersionId=" + "9" * 5000, "is no number of a version"),
        ("https://civitai.com/api/download/models/5?Token=abc", "set CIVITAI_TOKEN"),
        ("https://host/x.safetensors?api_key=abc", "holds a token"),
        ("hf://a/b@main/../x.safetensors", "no file of a repository"),
        ("hf://a/b@main/x/", "no file of a repository"),
        ("urn:air:sdxl:lora:civitai:12", "only with its version"),
        ("https://civitai.com/models/12", "names a model, not a version"),
        (
            "https://civitai.com/models/1/n?modelVersionId=2,",
            "modelVersionId is no number of a version",
        ),
        ("https://civitai.com/user/x", "names no model version"),
        ("https://civitai.com/api/download/models/5?token=abc", "set CIVITAI_TOKEN"),
        ("https://user:secret@host/x", "would leak"),
        ("http://host/x", "use https://"),
        ("https:///x", "no host"),
        ("https://huggingface.co/a/b", "names no file"),
        ("hf://a/b", "the file is missing"),
        ("hf://datasets/a/b", "the file is missing"),
        ("https://huggingface.co/datasets/a/b", "names no file"),
        ("hf://a b/c/d", "no Hugging Face repository"),
        ("file:", "needs a path"),
        ("file://host/x", "absolute path"),
        ("s3://bucket/x", "not a known source"),
    ],
)
def test_other_forms_are_refused_with_the_form_to_use(text: str, message: str) -> None:
    with pytest.raises(SourceFormError, match=message.replace("?", r"\?")) as caught:
        parse_source(text)
    assert "abc" not in str(caught.value)
    assert "secret" not in str(caught.value)
