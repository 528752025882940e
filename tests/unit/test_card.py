"""`bake gpu-check` around its container: what it is given, what of it is kept, how it ends."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from docker.errors import APIError, NotFound

from bake.console import Console
from bake.errors import MachineError, VerifyError
from bake.image.engine.docker import Engine
from bake.serve.card import CardCheck, check_card
from tests.unit.conftest import Ended

LABELS = {"bakery.webui.python": "/webui/python", "bakery.layers": "sha256:1"}
RECORD = {"figures": {"all": 0.5}, "runs": [1]}


class Check:
    """A container in which the check ends as it is told, and the engine that has it."""

    def __init__(
        self,
        *,
        status: int = 0,
        record: bytes | None = b"",
        labels: Mapping[str, str] = LABELS,
        says: Exception | KeyboardInterrupt | None = None,
        starts: str = "",
    ) -> None:
        self.status, self.says, self.starts = status, says, starts
        self.record = json.dumps(RECORD).encode() if record == b"" else record
        self.image_labels = labels
        self.is_left = False

    def labels(self, _image: str) -> dict[str, str]:
        return dict(self.image_labels)

    @contextmanager
    def container(self, _image: str, **_options: Any) -> Iterator[Check]:
        self.is_left = True
        try:
            yield self
        finally:
            self.is_left = False

    def put_archive(self, _path: str, data: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert "gpu-check/benchmarks/gpu/check.py" in tar.getnames()

    def start(self) -> None:
        if self.starts:
            raise APIError("500", explanation=self.starts)

    def logs(self, *, stream: bool = False, stdout: bool = True, **_how: Any) -> Any:
        if stream:
            return self._lines()
        return b"| some | plain |\n" if stdout else b"the last words\n"

    def _lines(self) -> Iterator[bytes]:
        yield b"some plain: 3 s\n"
        if self.says:
            raise self.says

    def wait(self) -> dict[str, int]:
        return {"StatusCode": self.status}

    def get_archive(self, path: str) -> tuple[list[bytes], dict[str, Any]]:
        if self.record is None:
            raise NotFound("no such file")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            entry = tarfile.TarInfo(path.rpartition("/")[2])
            entry.size = len(self.record)
            tar.addfile(entry, io.BytesIO(self.record))
        return [packed.getvalue()], {}

    def run(self, kept: list[Mapping[str, Any]] | None = None) -> CardCheck:
        keep = (kept if kept is not None else []).append
        try:
            return check_card(
                cast("Engine", self), "some:image", device="cuda", arguments=[],
                console=Console(quiet=True), keep=keep,
            )  # fmt: skip
        finally:
            assert not self.is_left, "its container is still there"


def test_what_a_check_finds() -> None:
    found = Check().run()
    assert (found.is_good, found.record, found.table) == (True, RECORD, "| some | plain |\n")
    assert not Check(status=1).run().is_good


def test_an_interrupted_check_leaves_its_record() -> None:
    """An hour of starts is in it: the check writes it anew after each."""
    kept: list[Mapping[str, Any]] = []
    with pytest.raises(KeyboardInterrupt):
        Check(says=KeyboardInterrupt()).run(kept)
    assert kept == [RECORD]
    with pytest.raises(KeyboardInterrupt):
        Check(says=KeyboardInterrupt(), record=None).run(kept)
    assert kept == [RECORD]


@pytest.mark.parametrize("record", [None, b'{"figures":', b"[]"])
def test_a_check_without_a_result_ends_with_its_last_words(record: bytes | None) -> None:
    with pytest.raises(VerifyError, match="the check ended with status 1\n    the last words"):
        Check(status=1, record=record).run()


@pytest.mark.parametrize(
    ("labels", "lacking"),
    [
        ({}, "bakery.webui.python"),
        # a base has a webui, and nothing of ours to check
        ({"bakery.webui.python": "/webui/python"}, "bakery.layers"),
    ],
)
def test_what_is_no_worker_image(labels: dict[str, str], lacking: str) -> None:
    with pytest.raises(VerifyError, match=f"it has no label {lacking}") as caught:
        Check(labels=labels).run()
    assert "name a manifest that was baked here" in str(caught.value.hint)


def test_a_machine_without_a_card() -> None:
    for check in (Check(status=3), Check(starts="could not select device driver")):
        with pytest.raises(MachineError) as caught:
            check.run()
        assert "--device cpu rehearses the check" in str(caught.value.hint)


def test_a_record_that_could_not_be_written_is_said_before_anything_starts(
    run_bake: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "record.json"
    ended = run_bake("gpu-check", "some:image", "-o", str(place), DOCKER_HOST="tcp://127.0.0.1:1")
    assert ended.returncode == 3
    assert f"error: {place}: the record cannot be written: " in ended.stderr
    assert "--output FILE" in ended.stderr


def test_an_engine_that_fails_is_no_fault_of_ours(
    run_bake: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from requests.exceptions import ReadTimeout  # noqa: PLC0415

    for error, words in (
        (APIError("500", explanation="no space left on device"), "no space left on device"),
        (
            ReadTimeout("http+docker://localhost"),
            "a connection broke (ReadTimeout), most likely the Docker Engine's",
        ),
    ):

        def fail(*_arguments: Any, error: Exception = error, **_options: Any) -> None:
            raise error

        monkeypatch.setattr("bake.cli.commands.gpu_check.Engine", fail)
        ended = run_bake("gpu-check", "some:image", "-o", str(tmp_path / "r.json"))
        assert ended.returncode == 3
        assert words in ended.stderr
        assert "docker info" in ended.stderr
        assert "fault of bake itself" not in ended.stderr
