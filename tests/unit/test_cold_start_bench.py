"""What `benchmarks/cold_start.py` says of measured starts, and how it asks ComfyUI."""

from pathlib import Path

from benchmarks import cold_start_comfyui as comfyui
from benchmarks.cold_start import payload
from benchmarks.cold_start_runs import Run, differ, figures


def run(variant: str, seconds: float, picture: str = "a") -> Run:
    return Run(
        checkpoint="sd15",
        variant=variant,
        cache="warm",
        first_picture_s=seconds,
        webui_cpu_s=seconds,
        read_bytes=0,
        anonymous_bytes=int(seconds),
        picture=picture,
    )


def test_figures_are_of_both_peers() -> None:
    runs = [run("official", 10), run("all", 4), run("comfyui", 8, "b")]
    assert figures(runs) == {
        "first_picture_warm_ratio_sd15": 0.4,
        "cpu_warm_ratio_sd15": 0.4,
        "memory_warm_ratio_sd15": 0.4,
        "first_picture_warm_of_comfyui_sd15": 0.5,
    }


def test_each_program_must_draw_one_picture() -> None:
    runs = [run("official", 10), run("all", 4), run("comfyui", 8, "b")]
    assert not differ(runs, "sd15")
    assert differ([*runs, run("all", 4, "c")], "sd15")
    assert differ([*runs, run("comfyui", 8, "c")], "sd15")


def test_comfyui_is_asked_for_the_same_picture(tmp_path: Path) -> None:
    nodes = comfyui.workflow(payload(steps=1, size=64), "sd15.safetensors")
    assert nodes["sampler"]["inputs"] == {
        "model": ["checkpoint", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["latent", 0],
        "seed": 1,
        "steps": 1,
        "cfg": 7,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    assert nodes["latent"]["inputs"] == {"width": 64, "height": 64, "batch_size": 1}
    places = {name for node in nodes.values() for name in node["inputs"]}
    assert {"ckpt_name", "text", "samples", "vae", "images"} <= places
    command = comfyui.command(["python", "main.py"], 1, tmp_path, Path("/m/sd15.safetensors"))
    assert command[:3] == ["python", "main.py", "--disable-auto-launch"]
    assert (tmp_path / "extra_model_paths.json").read_text() == (
        '{"benchmark": {"checkpoints": "/m"}}'
    )
