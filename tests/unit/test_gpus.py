"""The table of cards: sound, and within what the base's CUDA and xformers can compile for."""

import json
import re

from bake.manifest.gpus import DATA_FILE, find_gpu, gpu_names

# nvcc of CUDA 12.1 compiles for these; xformers' flash attention starts at 8.0.
COMPILABLE = {"7.0", "7.2", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0"}


def test_every_card_has_an_architecture_that_the_base_can_be_compiled_for() -> None:
    found = {find_gpu(name).cuda_architecture for name in gpu_names()}
    assert found <= COMPILABLE


def test_the_names_are_sorted_and_of_the_form_that_a_manifest_takes() -> None:
    names = list(json.loads(DATA_FILE.read_text(encoding="utf-8"))["gpus"])
    assert names == sorted(names) == gpu_names()
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)


def test_the_card_that_the_project_is_made_for_is_of_the_ada_generation() -> None:
    assert find_gpu("rtx-6000-ada").cuda_architecture == "8.9"
