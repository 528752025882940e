"""`python -m tests.standins`: CivitAI and Hugging Face on loopback, by hand.

Prints the environment for `bake`, serves until it is interrupted, and logs every request.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from tests.standins.civitai import GOOD_TOKEN
from tests.standins.huggingface import HF_TOKEN
from tests.standins.world import API_REFUSED, REFUSED, Standins, add_catalogue


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.standins", description=__doc__)
    parser.add_argument("--civitai-port", type=int, default=0)
    parser.add_argument("--huggingface-port", type=int, default=0)
    parser.add_argument(
        "--megabytes", type=int, default=0, help="how large the checkpoint is, about"
    )
    given = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    with Standins(
        loud=True, civitai_port=given.civitai_port, huggingface_port=given.huggingface_port
    ) as world:
        add_catalogue(world, padding_bytes=given.megabytes << 20)
        for name, value in world.environment.items():
            print(f"export {name}={value}")
        print(f"# tokens that work: CIVITAI_TOKEN={GOOD_TOKEN} HF_TOKEN={HF_TOKEN}")
        print(
            "# civitai:1590699, civitai:135867, hf://madebyollin/sdxl-vae-fp16-fix/sdxl_vae.safetensors"
        )
        print(
            f"# refusals: civitai:{REFUSED} and up (downloads), civitai:{API_REFUSED} and up (API),"
        )
        print("# hf://trouble/gated/sdxl_vae.safetensors and the like")
        sys.stdout.flush()
        stop.wait()


if __name__ == "__main__":
    main()
