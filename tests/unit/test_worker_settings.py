"""The worker's variables: one table, checked in one place, every mistake of it at once."""

import pytest

from runtime.errors import SettingsError
from runtime.settings import Settings

TOKEN = "secret 0123"


def test_defaults_and_values_of_each_kind() -> None:
    assert Settings.from_environment({"BAKERY_OOM": " ", "OTHER": "1"}) == Settings()
    settings = Settings.from_environment(
        {
            "BAKERY_DEVICE": "cpu",
            "BAKERY_ATTEMPTS": "2",
            "BAKERY_RETRY_WAIT_S": " 0.5 ",
            "BAKERY_LOG_PROMPTS": "true",
            "BAKERY_CIVITAI_URL": "http://127.0.0.1:8000/",
            "BAKERY_MAX_SIDE": "1024",
            "BAKERY_MAX_RESPONSE_MB": "20",
            "HF_TOKEN": "hf_abc",
        }
    )
    assert (settings.device, settings.attempts, settings.retry_wait_s) == ("cpu", 2, 0.5)
    assert (settings.log_prompts, settings.civitai_url) == (True, "http://127.0.0.1:8000")
    assert (settings.limits, settings.max_response_mb) == ({"side": 1024}, 20)
    assert settings.hf_token == "hf_abc"
    assert "hf_abc" not in repr(settings)


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("BAKERY_DEVICE", "gpu", "BAKERY_DEVICE='gpu': is not one of auto, cuda, cpu"),
        ("BAKERY_ATTEMPTS", "many", "BAKERY_ATTEMPTS='many': is not a whole number from 0 on"),
        ("BAKERY_ATTEMPTS", "1.5", "is not a whole number from 0 on"),
        ("BAKERY_WEBUI_RESTARTS", "-1", "is not a whole number from 0 on"),
        ("BAKERY_START_TIMEOUT_S", "nan", "is not a number from 0 on"),
        ("BAKERY_LOG_PROMPTS", "yes", "is neither 0 nor 1"),
        ("BAKERY_CIVITAI_URL", "ftp://x", "is not an https address"),
        ("BAKERY_CIVITAI_URL", "http://mirror.example", "is not an https address"),
        ("BAKERY_CIVITAI_URL", "https://u:p@x", "without user and password"),
        ("BAKERY_MAX_SIDE", "0", "BAKERY_MAX_SIDE='0': is not a number above 0"),
        ("BAKERY_MAX_SIDES", "512", "BAKERY_MAX_SIDES='512': is no limit; there are side, pixels"),
        ("CIVITAI_TOKEN", TOKEN, "CIVITAI_TOKEN: holds spaces or other characters"),
    ],
)
def test_what_cannot_be_used_is_said_without_a_token(variable: str, text: str, words: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment({variable: text})
    assert words in str(raised.value)
    assert TOKEN not in str(raised.value)


def test_every_mistake_is_in_one_message() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment(
            {
                "BAKERY_OOM": "maybe",
                "BAKERY_MAX_STEPS": "-1",
                "HF_TOKEN": "a b",
                "BAKERY_ATTEMPTS": "",
            }
        )
    assert str(raised.value) == (
        "BAKERY_MAX_STEPS='-1': is not a number above 0; "
        "BAKERY_OOM='maybe': is not one of fail, split; "
        "HF_TOKEN: holds spaces or other characters that no token has"
    )
