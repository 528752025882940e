"""Every way in which a job fails: one table of codes (docs/operations.md is written from it).

What a client gets is `JobError.to_json()`: a code, a sentence of ours, the fields, and whether the same
request may work later. Never a traceback, a path of this machine or the webui's own words.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

CODES = {
    "invalid_request": (False, "fields are wrong; all of them are named in `fields`"),
    "lora_refused": (False, "a LoRA's address, file or hash is not acceptable"),
    "lora_unavailable": (True, "a LoRA could not be fetched now"),
    "lora_not_applied": (False, "the webui drew without a LoRA that was asked for"),
    "embedding_refused": (False, "an embedding's address, file or hash is not acceptable"),
    "embedding_unavailable": (True, "an embedding could not be fetched now"),
    "picture_unavailable": (True, "a picture that goes in could not be fetched now"),
    "not_honoured": (False, "the webui ignored a part of the request"),
    "out_of_memory": (False, "the picture does not fit the device's memory"),
    "generation_failed": (False, "the webui could not draw this"),
    "webui_unavailable": (True, "the webui ended or hung; the worker is replaced or repaired"),
    "timeout": (True, "the job took longer than the worker allows"),
    "worker_stopping": (True, "the worker was told to stop while the job ran"),
    "worker_starting": (True, "over HTTP: the model is not loaded yet"),
    "result_too_large": (False, "the result is above the endpoint's limit"),
    "storage_not_configured": (
        False,
        "S3 delivery without the bucket's variables, or with some that contradict each other",
    ),
    "storage_failed": (
        True,
        "the bucket did not take a picture; not retryable where it refused it",
    ),
    "busy": (True, "over HTTP: as many requests wait as the worker takes"),
    "internal": (True, "a fault of the worker; the log has it under the job's id"),
}
"""Whether the same request may work later, and the meaning of each code."""


class SettingsError(Exception):
    """A variable has a value that cannot be used; the worker does not start with a guess."""


@dataclass(frozen=True, kw_only=True)
class FieldError:
    """What is wrong with one field."""

    field: str
    message: str


@dataclass(eq=False)
class JobError(Exception):
    """Ends a job."""

    code: str
    """A key of `CODES`."""
    message: str
    """A sentence for the client."""
    fields: Sequence[FieldError] = ()
    detail: str = ""
    """For the log only."""
    refresh: bool = False
    """Whether the worker must be replaced afterwards."""
    retryable: bool | None = None
    """Where it is known better than by the code."""

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> str:
        """The string that goes into a job's `error`."""
        return json.dumps(
            {
                "code": self.code,
                "message": self.message,
                "fields": [dataclasses.asdict(each) for each in self.fields],
                "retryable": CODES[self.code][0] if self.retryable is None else self.retryable,
            }
        )
