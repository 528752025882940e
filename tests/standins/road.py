"""What `demo/road` meets: Sigstore and RunPod. A job of the endpoint is drawn by the image that the endpoint has.

    python -m tests.standins.road FOLDER

Writes FOLDER/env, to be sourced, and serves until its standard input ends. Then it says what RunPod's document
holds against any request, and ends with 1 if it holds anything.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.standins.runpod_api import OURS, PUBLISHED, TOKEN, RunpodApi
from tests.standins.sigstore import ISSUER, WORKFLOW, Sigstore


def main() -> int:
    """Serves; returns the exit code."""
    folder = Path(sys.argv[1])
    sigstore = Sigstore()
    api = RunpodApi(PUBLISHED if PUBLISHED.is_file() else OURS)

    def draw(job: dict[str, Any]) -> None:
        (endpoint,) = api.endpoints.values()
        api.complete(job)
        job["output"] = run_job(str(endpoint["image"]), job["input"])

    api.after_status = draw
    environment = {
        "RUNPOD_API_URL": api.url,
        "RUNPOD_API_KEY": TOKEN,
        "SIGSTORE_ID_TOKEN": sigstore.token(),
        "ROAD_TRUST": str(sigstore.write_config(folder / "trust.json")),
        "ROAD_IDENTITY": WORKFLOW,
        "ROAD_ISSUER": ISSUER,
    }
    written = folder / "env.new"
    written.write_text(
        "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    )
    written.rename(folder / "env")
    sys.stdin.read()
    print(f"RunPod was sent {len(api.seen)} requests; its document says against them: {api.invalid or 'nothing'}")  # fmt: skip
    print(f"endpoints: {[each['image'] for each in api.endpoints.values()]}")
    return 1 if api.invalid else 0


def run_job(image: str, job: Any) -> Any:
    """What a container of the image, pulled as RunPod would, answers to a job, with no network."""
    subprocess.run(["docker", "pull", "--quiet", image], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(
            ["docker", "run", "--rm", "--network", "none", "--volume", f"{out}:/out", "--env",
             "BAKERY_TEST_OUTPUT=/out/output.json", image, "--test_input", json.dumps({"input": job})],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return json.loads(Path(out, "output.json").read_text())


if __name__ == "__main__":
    sys.exit(main())
