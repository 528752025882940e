"""From an edited manifest to an endpoint and back, on the demo, in a clean clone: the script that CI and people run."""

from collections.abc import Mapping
from pathlib import Path

from tests.integration.conftest import ROOT, run


def test_the_road_is_clear(engine: Mapping[str, str], slim_image: str, tmp_path: Path) -> None:
    environment = {**engine, "BAKE_STORE": str(tmp_path / "store")}
    ended = run(ROOT / "demo" / "road", env=environment, timeout_s=1400)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    for line in (
        "## road: what this change means",
        "signed   provenance",
        "signed   bill of materials",
        "new endpoint road (QUEUE)",
        "its document says against them: nothing",
        "== the road is clear",
    ):
        assert line in ended.stdout, line
    assert ended.stdout.count("signature by https://github.com/you/models/") == 2
    assert list((ROOT / "build").glob("road.*")) == []
