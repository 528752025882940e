"""The manifest's section `deploy`: how its image runs as a RunPod serverless endpoint."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from bake.secrets import find_secret
from runtime.errors import SettingsError
from runtime.settings import Settings as WorkerSettings

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_POOL = re.compile(r"[A-Z][A-Z0-9_]*")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|ACCESS_KEY|API_KEY|CREDENTIAL", re.IGNORECASE)


def _refuse(text: str, **values: object) -> PydanticCustomError:
    return PydanticCustomError("own_words", text, values)


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise _refuse("{name} is no name of a variable", name=name)
    if name in {"BAKE_DEPLOYED"} or name.startswith("RUNPOD_"):
        raise _refuse("{name} cannot be given: RunPod and bake set it", name=name)
    return name


def _text_variable(name: str) -> str:
    if _SECRET_NAME.search(name):
        raise _refuse("{name} looks like a secret; name it under `secrets`", name=name)
    return _variable(name)


def _secret(name: str) -> str:
    if not _VARIABLE.fullmatch(name) or find_secret(name):
        raise _refuse("a secret is given by its name in RunPod, such as civitai_token")
    return name


def _text(value: str) -> str:
    if reason := find_secret(value):
        raise _refuse("{reason}; name it under `secrets`", reason=reason)
    return value


def _pool(name: str) -> str:
    if not _POOL.fullmatch(name):
        raise _refuse("{name} is no pool, which is called as in ADA_48_PRO", name=name)
    return name


class Workers(BaseModel):
    """How many workers there may be."""

    model_config = _STRICT

    min: int = Field(
        0, ge=0, le=1000, description="0 to 1000 workers that always run, and are always paid"
    )
    max: int = Field(3, ge=0, le=1000, description="0 to 1000 workers at once")
    idle_timeout: int = Field(
        5, ge=1, le=3600, description="1 to 3600 seconds that a worker waits for a next job"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Workers:
        if self.min > self.max:
            raise _refuse("min is above max")
        return self


class Scaling(BaseModel):
    """When another worker starts: one of the two."""

    model_config = _STRICT

    queue_delay: float | None = Field(
        None, ge=0.5, le=3600, strict=False, description="0.5 to 3600 seconds that a job may wait"
    )
    requests: int | None = Field(
        None, ge=1, le=1000, description="1 to 1000 requests in progress for each worker"
    )

    @model_validator(mode="after")
    def _one(self) -> Scaling:
        if (self.queue_delay is None) == (self.requests is None):
            raise _refuse("give queue_delay or requests, not both")
        return self


class Deploy(BaseModel):
    """An endpoint. What is left out follows from the rest of the manifest, or is RunPod's choice."""

    model_config = _STRICT

    name: str | None = Field(
        None,
        min_length=1,
        max_length=190,
        description="the endpoint's name; the manifest's if left out",
    )
    type: Literal["queue", "load_balancer"] = Field("queue", description="queue or load_balancer")
    pools: tuple[Annotated[str, AfterValidator(_pool)], ...] = Field(
        (),
        strict=False,
        description="a list of GPU pools, such as [ADA_48_PRO]; those of `gpu` if left out",
    )
    excluded: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        strict=False,
        description="a list of GPU types to leave out of the pools, by RunPod's ids",
    )
    cuda: str = Field(
        "12.1",
        pattern=r"^\d+\.\d+$",
        description="lowest CUDA version of a host's driver, in quotes, such as '12.1'",
    )
    workers: Workers = Field(default_factory=Workers)
    scaling: Scaling | None = None
    timeout: int = Field(
        600,
        ge=5,
        le=86400,
        description="5 to 86400 seconds that a job may take, drawing and delivery together",
    )
    flashboot: bool = Field(
        True, description="true or false: true keeps a snapshot of an idle worker"
    )
    disk: int | None = Field(
        None,
        ge=1,
        le=4000,
        description="1 to 4000, the GB of the container's disk; from the image if left out",
    )
    env: dict[
        Annotated[str, AfterValidator(_text_variable)], Annotated[str, AfterValidator(_text)]
    ] = Field(default_factory=dict, description="variables of the worker, name to text")
    secrets: dict[
        Annotated[str, AfterValidator(_variable)], Annotated[str, AfterValidator(_secret)]
    ] = Field(default_factory=dict, description="variable to the name of a RunPod secret")
    registry: str | None = Field(
        None,
        min_length=1,
        description="RunPod's registry credential for a private image, by name or id",
    )
    volumes: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), strict=False, description="a list of network volumes, by id"
    )
    data_centers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), strict=False, description="a list of data centres, such as [EU-RO-1]; any if left out"
    )

    @model_validator(mode="after")
    def _together(self) -> Deploy:
        if both := sorted(set(self.env) & set(self.secrets)):
            raise _refuse("{names} is under env and under secrets", names=", ".join(both))
        if self.type == "load_balancer" and self.scaling and self.scaling.requests is None:
            raise _refuse("a load balancer scales by requests")
        try:
            WorkerSettings.from_environment(self.env)
        except SettingsError as error:
            raise _refuse("the worker would not start: {error}", error=str(error)) from error
        known = {each.metadata["variable"] for each in WorkerSettings.__dataclass_fields__.values()}
        for name in self.env:
            if (
                name.startswith("BAKERY_")
                and name not in known
                and not name.startswith("BAKERY_MAX_")
            ):
                raise _refuse("{name} is no variable of the worker", name=name)
        return self
