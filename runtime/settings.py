"""The worker's environment variables, each with its default and meaning (docs/operations.md lists them)."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from runtime.boot.timeline import DEFAULT_FILE
from runtime.errors import SettingsError
from runtime.job.fields import LIMITS
from runtime.worker import WORKER_FILE

_LIMIT = "BAKERY_MAX_"


def _variable(name: str, default: Any, meaning: str, *choices: str, **more: Any) -> Any:
    """A field that `$BAKERY_<name>` sets; the type is the default's."""
    return _of_that_name(f"BAKERY_{name}", default, meaning, *choices, **more)


def _of_that_name(
    name: str,
    default: Any,
    meaning: str,
    *choices: str,
    shown: bool = True,
    least: int = 0,
    most: float = math.inf,
) -> Any:
    about = {"variable": name, "meaning": meaning, "choices": choices, "shown": shown}
    return field(default=default, metadata={**about, "least": least, "most": most}, repr=shown)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the operator of an endpoint decides. Times in seconds, sizes in MB (10^6 bytes)."""

    # fmt: off
    device: str = _variable("DEVICE", "auto", "where the webui computes: `auto`, `cuda` or `cpu`", "auto", "cuda", "cpu")
    boot: str = _variable("BOOT", "proven", "[start tricks](boot.md#switching): `proven` (on this kind of device), `all`, `plain` (upstream's own start), or those to leave out")
    server: str = _variable("SERVER", "queue", "how jobs come: `queue` (RunPod's, by its SDK), or `http` ([a load balancing endpoint](deploy.md#load-balancing))", "queue", "http")
    http_queue: int = _variable("HTTP_QUEUE", 4, "with `http`: how many requests may wait beside the one that is drawn")
    http_host: str = _variable("HTTP_HOST", "", "with `http`: the address that it listens on; all of the container's if left out")
    port: int = _of_that_name("PORT", 80, "with `http`: where requests come", least=1, most=65_535)
    health_port: int = _of_that_name("PORT_HEALTH", 0, "with `http`: where `/ping` is asked; `PORT` if left out", most=65_535)
    health_path: str = _of_that_name("HEALTH_CHECK_PATH", "/ping", "with `http`: asked by the load balancer")
    start_timeout_s: float = _variable("START_TIMEOUT_S", 300.0, "the model must be loaded by then; RunPod gives up after 420")
    job_timeout_s: float = _variable("JOB_TIMEOUT_S", 540.0, "a job is interrupted after this; RunPod's own default is 600")
    hang_timeout_s: float = _variable("HANG_TIMEOUT_S", 60.0, "a webui that answers no question for so long is killed")
    interrupt_timeout_s: float = _variable("INTERRUPT_TIMEOUT_S", 20.0, "an interrupted picture must end within this")
    term_grace_s: float = _variable("TERM_GRACE_S", 25.0, "how long a job may go on after SIGTERM before it is interrupted")
    attempts: int = _variable("ATTEMPTS", 3, "tries of one generation, where another try is safe")
    retry_wait_s: float = _variable("RETRY_WAIT_S", 5.0, "longest wait before the second try; doubled before each further one")
    restarts: int = _variable("WEBUI_RESTARTS", 1, "how often a dead webui is started again")
    oom: str = _variable("OOM", "fail", "out of memory: `fail`, or `split` a batch into smaller ones (the same pictures)", "fail", "split")
    progress_s: float = _variable("PROGRESS_S", 2.0, "least time between progress reports; 0: none")
    max_response_mb: float = _variable("MAX_RESPONSE_MB", 10.0, "the endpoint's limit for a result: 10 for /run, 20 for /runsync")
    bucket: str = _variable("BUCKET", "", "S3 bucket; if left out the one in `BUCKET_ENDPOINT_URL`, else month and year as the SDK has it")
    bucket_region: str = _variable("BUCKET_REGION", "", "region that the bucket's requests are signed for; the endpoint's if left out")
    bucket_style: str = _variable("BUCKET_STYLE", "auto", "where the bucket's name goes: `virtual` (host), `path`, or `auto`", "auto", "path", "virtual")
    bucket_prefix: str = _variable("BUCKET_PREFIX", "", "what each key begins with, such as `pictures/mine`")
    bucket_link_s: int = _variable("BUCKET_LINK_S", 604_800, "how long a link opens; a week is S3's limit", least=1, most=604_800)
    bucket_timeout_s: float = _variable("BUCKET_TIMEOUT_S", 60.0, "the bucket must have taken all of a job's pictures by then")
    override_settings: str = _variable("OVERRIDE_SETTINGS", "", "further names allowed in override_settings, with commas between; one that does nothing ends the start")
    lora_hosts: str = _variable("LORA_HOSTS", "civitai.com,huggingface.co", "hosts that LoRAs and embeddings may be fetched from; `none`")
    lora_cache: str = _variable("LORA_CACHE", "", "folder of fetched LoRAs and embeddings; on the network volume if there is one")
    lora_cache_mb: float = _variable("LORA_CACHE_MB", 4000.0, "the least recently used go first")
    lora_max_mb: float = _variable("LORA_MAX_MB", 1000.0, "largest single LoRA")
    lora_timeout_s: float = _variable("LORA_TIMEOUT_S", 120.0, "longest time for one LoRA")
    lora_loopback: bool = _variable("LORA_LOOPBACK", False, "`1` lets LoRAs and pictures come from this machine itself, for trials only")
    picture_hosts: str = _variable("PICTURE_HOSTS", "any", "hosts that pictures may be fetched from: `any` public one, a list with commas, or `none`")
    picture_max_mb: float = _variable("PICTURE_MAX_MB", 20.0, "largest single picture by address")
    picture_timeout_s: float = _variable("PICTURE_TIMEOUT_S", 30.0, "longest time for one picture by address")
    civitai_url: str = _variable("CIVITAI_URL", "https://civitai.com", "CivitAI, or a mirror of it")
    log_prompts: bool = _variable("LOG_PROMPTS", False, "`1` writes prompts to the log")
    webui_log: str = _variable("WEBUI_LOG", "/tmp/bakery/webui.log", "the webui's output, two files of at most 8 MiB")  # noqa: S108  # a container's own /tmp
    worker_file: str = _variable("WORKER_FILE", WORKER_FILE, "what the image knows of itself")
    timeline: str = _variable("TIMELINE", DEFAULT_FILE, "the start's events, one JSON object a line")
    test_output: str = _variable("TEST_OUTPUT", "", "file that each result is written to as JSON, as a verification by bake wants it")
    civitai_token: str = _of_that_name("CIVITAI_TOKEN", "", "sent to CivitAI, nowhere else", shown=False)
    hf_token: str = _of_that_name("HF_TOKEN", "", "sent to Hugging Face, nowhere else", shown=False)
    bucket_endpoint: str = _of_that_name("BUCKET_ENDPOINT_URL", "", "the S3 server of `delivery: s3`, see [below](#a-bucket-for-pictures)")
    bucket_key_id: str = _of_that_name("BUCKET_ACCESS_KEY_ID", "", "the bucket's key", shown=False)
    bucket_secret: str = _of_that_name("BUCKET_SECRET_ACCESS_KEY", "", "and its secret", shown=False)
    # fmt: on
    limits: Mapping[str, int] = field(
        default_factory=dict,
        metadata={
            "variable": f"{_LIMIT}<LIMIT>",
            "meaning": "lowers a [limit of a request](request.md#limits), e.g. `BAKERY_MAX_SIDE`",
        },
    )

    @property
    def allowed_overrides(self) -> list[str]:
        """The names in `override_settings`."""
        return [each.strip() for each in self.override_settings.split(",") if each.strip()]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Reads every variable.

        Raises:
            SettingsError: all values that cannot be used, in one message.
        """
        environment = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        wrong: list[str] = []
        table = {each.metadata["variable"]: each for each in dataclasses.fields(cls)}
        for name, text in ((name, environment[name].strip()) for name in sorted(environment)):
            try:
                if name in table and text:
                    values[table[name].name] = _parse(text, table[name])
                elif name.startswith(_LIMIT) and text:
                    values.setdefault("limits", {})[_limit(name)] = _natural(text)
            except ValueError as error:
                is_shown = name not in table or table[name].metadata["shown"]
                wrong.append(f"{name}={text!r}: {error}" if is_shown else f"{name}: {error}")
        if wrong:
            raise SettingsError("; ".join(wrong))
        return cls(**values)


def _limit(variable: str) -> str:
    name = variable.removeprefix(_LIMIT).lower()
    if name not in LIMITS:
        raise ValueError(f"is no limit; there are {', '.join(LIMITS)}")
    return name


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20) or int(text) < 1:
        raise ValueError("is not a number above 0")
    return int(text)


def _parse(text: str, variable: dataclasses.Field[Any]) -> Any:
    choices: tuple[str, ...] = variable.metadata["choices"]
    default: Any = variable.default
    if choices and text not in choices:
        raise ValueError(f"is not one of {', '.join(choices)}")
    if isinstance(default, bool):
        if text.lower() not in {"0", "1", "false", "true"}:
            raise ValueError("is neither 0 nor 1")
        return text.lower() in {"1", "true"}
    if not variable.metadata["shown"] and not all("!" <= each <= "~" for each in text):
        raise ValueError("holds spaces or other characters that no token has")
    if variable.name.endswith("_url"):
        return _read_url(text)
    if isinstance(default, str):
        return text
    try:
        number = type(default)(text)
    except ValueError:
        number = -1
    least, most = variable.metadata["least"], variable.metadata["most"]
    if not math.isfinite(number) or not least <= number <= most:
        kind = "whole number" if isinstance(default, int) else "number"
        raise ValueError(
            f"is not a {kind} from {least} {'on' if most == math.inf else f'to {most}'}"
        )
    return number


def _read_url(text: str) -> str:
    from runtime.files.policy import is_loopback_host  # noqa: PLC0415  # only where one is set

    url = urlsplit(text)  # raises ValueError itself
    is_safe = url.scheme == "https" or (
        url.scheme == "http" and is_loopback_host(url.hostname or "")
    )
    if not is_safe or not url.hostname or url.username is not None:
        raise ValueError("is not an https address without user and password")
    return text.rstrip("/")
