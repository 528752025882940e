"""Bill of materials and provenance: valid by the judgement of others, and the same every time."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from google.protobuf.json_format import Parse
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from bake.image.final.packages import Package
from bake.image.final.sbom import make_provenance, make_sbom
from bake.lock import Licence, Lock, Pin
from runtime.worker import Weights, Worker
from tests.unit.test_assemble import THIN, WEIGHTS, make_base
from tests.unit.test_verify import make_lock, make_worker

PACKAGES = [
    Package(kind="pypi", name="requests", version="2.31.0", licence="Apache-2.0"),
    Package(kind="pypi", name="requests", version="2.31.0", licence="Apache License 2.0"),
    Package(kind="pypi", name="requests", version="2.31.0"),
    Package(kind="pypi", name="requests", version="2.32.0", licence="Apache-2.0"),
    Package(kind="deb", name="libc6", version="2:2.36-9+deb12u4~x"),
    Package(kind="deb", name="requests", version="2.31.0", licence='odd "licence" ü'),
]


def locked(**change: Any) -> tuple[Worker, Lock]:
    """A worker and a lock whose one pin is changed."""
    worker, lock = make_worker(), make_lock()
    return worker, replace(lock, pins=tuple(replace(pin, **change) for pin in lock.pins))


def check_sbom(text: str) -> dict[str, Any]:
    # It compiles grammars for seconds, which not every process that collects these tests is to wait for.
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert wrong is None, wrong
    sbom: dict[str, Any] = json.loads(text)
    references = [each["bom-ref"] for each in sbom["components"]]
    assert len(references) == len(set(references))
    return sbom


def check_provenance(text: str) -> dict[str, Any]:
    """By in-toto's own messages, which know no other fields, and what the specifications require."""
    message = Parse(text, StatementMessage())
    Statement.copy_from_pb(message).validate()
    statement: dict[str, Any] = json.loads(text)
    predicate = Parse(json.dumps(statement["predicate"]), provenance_pb2.Provenance())
    definition = predicate.build_definition
    for uri in (definition.build_type, predicate.run_details.builder.id):
        assert ":" in uri, "SLSA asks for a URI"
    assert definition.external_parameters
    for each in [*definition.resolved_dependencies, *message.subject]:
        assert len(each.digest["sha256"]) == 64
    for each in definition.resolved_dependencies:
        assert not each.uri or ":" in each.uri
    return statement


def test_two_records_of_one_package_are_one_component() -> None:
    worker, lock = locked()
    sbom = check_sbom(make_sbom(worker=worker, lock=lock, packages=PACKAGES))
    found = [each for each in sbom["components"] if each["name"] == "requests"]
    versions = [(each["purl"].split("/")[0], each["version"]) for each in found]
    assert sorted(versions) == [
        ("pkg:deb", "2.31.0"),
        ("pkg:pypi", "2.31.0"),
        ("pkg:pypi", "2.32.0"),
    ]
    twice = next(each for each in found if each["purl"] == "pkg:pypi/requests@2.31.0")
    names = [each["license"].get("name") or each["license"].get("id") for each in twice["licenses"]]
    assert sorted(names) == ["Apache License 2.0", "Apache-2.0"]


def test_the_order_of_what_was_found_does_not_matter() -> None:
    worker, lock = locked()
    noise = random.Random(6)
    texts = set()
    for _ in range(10):
        found = noise.sample(PACKAGES * 2, len(PACKAGES) * 2)
        texts.add(make_sbom(worker=worker, lock=lock, packages=found))
    assert len(texts) == 1


def test_another_process_writes_the_same() -> None:
    """Whose sets have another order."""
    code = (
        "import sys\nfrom bake.image.final.packages import Package\n"
        "from bake.image.final.sbom import make_sbom\nfrom bake.lock import Lock\n"
        "from runtime.worker import Worker\n_, worker, lock, packages = sys.argv\n"
        "print(make_sbom(worker=Worker.from_json(worker), lock=Lock.from_json(lock),"
        " packages=eval(packages)), end='')"
    )
    worker, lock = locked()
    given = (worker.to_json(), lock.to_json(), repr(PACKAGES))
    for seed in ("1", "2"):
        ended = subprocess.run(
            [sys.executable, "-c", code, *given], cwd=Path(__file__).parents[2], check=True, text=True,
            capture_output=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        )  # fmt: skip
        assert ended.stdout == make_sbom(worker=worker, lock=lock, packages=PACKAGES)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"url": ""},
        {"url": "file:models/a model.safetensors"},
        {"url": "https://example/ä b?x=[1]#y"},
        {"licence": Licence(name="CreativeML Open RAIL-M", no_credit=True, commercial_use=("Image",))},
        {"licence": Licence(name="MIT")},
        {"title": "A \"title\" with ü, < and \\u0007"},
        {"version_id": 7, "revision": "refs/pr/1", "base_model": "SD 1.5"},
    ],
)  # fmt: skip
def test_every_pin_gives_valid_documents(change: dict[str, Any]) -> None:
    worker, lock = locked(**change)
    check_sbom(make_sbom(worker=worker, lock=lock, packages=PACKAGES))
    check_provenance(
        make_provenance(worker=worker, lock=lock, base=make_base(), layers=[WEIGHTS, THIN])
    )


def test_the_same_file_in_two_roles_is_two_models() -> None:
    worker, lock = locked()
    pin, weights = lock.pins[0], worker.weights[0]
    again = replace(pin, key="loras.b", role="lora", name="b")
    lock = replace(lock, pins=(pin, again))
    second: Weights = replace(weights, role="lora", name="b", path="/models/lora/b.safetensors")
    worker = replace(worker, weights=(weights, second))
    sbom = check_sbom(make_sbom(worker=worker, lock=lock, packages=[]))
    assert len(sbom["components"]) == 2
    assert isinstance(again, Pin)
