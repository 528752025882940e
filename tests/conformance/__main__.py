"""`python -m tests.conformance --webui FOLDER --python PYTHON`: prints every difference; 1 if one is not deliberate."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bake.weights.kinds import recognise
from runtime.files.safetensors import read_header
from tests.conformance import cases, models, pictures
from tests.conformance.cases import BASE, LONG, Case
from tests.conformance.deliberate import reason_for
from tests.conformance.loras import make_all, make_tiny, make_xl
from tests.conformance.requests import REFUSED
from tests.conformance.webuis import ROOT, Bench, FreshWebui, WorkerOverWebui, pixels

SMALL, TINY = ("small", "small-b", "smallxl"), ("tiny", "tiny-b")
"""Checkpoints of two workers: with every block of the real ones, and what draws fastest."""


@dataclass
class Table:
    """What was compared, and what differed."""

    counts: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[str, str, str, str | None]] = field(default_factory=list)

    def add(self, part: str, case: str, difference: str) -> None:
        self.counts[part] = self.counts.get(part, 0) + 1
        if difference:
            why = reason_for(f"{part}: {case}: {difference}")
            self.rows.append((part, case, difference, why))
            print(
                f"{'deliberate' if why else 'DIFFERENCE'}  {part}: {case}: {difference}"
                + (f" ({why})" if why else ""),
                flush=True,
            )

    @property
    def is_clean(self) -> bool:
        return all(why for _, _, _, why in self.rows)


@dataclass
class Check:
    """The two sides and the table."""

    bench: Bench
    fresh: FreshWebui
    worker: WorkerOverWebui
    table: Table

    def compare(self, part: str, case: Case, *, name: str = "") -> None:
        self.table.add(part, name or case.name, self.difference(case))

    def difference(self, case: Case) -> str:
        status, body = self.fresh.draw(case.payload, case.endpoint)
        output = self.worker.run(case.value)
        if "error" in output:
            said = _message(output)
            return f"refused ({said}), drawn by the webui" if status == 200 else ""
        if status != 200:
            return f"drawn, the webui answers {status} {str(body.get('detail'))[:80]}"
        ours = pixels(output.get("images") or [output["image"]])
        if ours != (theirs := pixels(body["images"])):
            return f"{ours} instead of {theirs}"
        if case.endpoint == "extra-single-image":
            same = output["html_info"] == body["html_info"]
            return "" if same else f"html_info is {output['html_info']}"
        return _compare_info(output["info"], body["info"])

    def fields(self) -> None:
        for case in cases.fields():
            self.compare("field", case)

    def clients(self) -> None:
        for case in cases.clients():
            self.compare("client", case)
        for name, sent, words in REFUSED:
            named = json.loads(json.dumps(sent).replace("detail", "lora-f32"))
            said = str(self.worker.run({**BASE, **named}).get("error"))
            self.table.add("client", name, "" if words in said else f"not refused as such: {said}")

    def pictures(self) -> None:
        """img2img, inpainting and upscaling, each alone and after one another."""
        for case in pictures.cases():
            self.compare("pictures", case)
        for name, sent, words in pictures.refused():
            said = str(self.worker.run(sent).get("error"))
            self.table.add(
                "pictures", name, "" if words in said else f"not refused as such: {said}"
            )
        names, schedulers = _offers(self.bench)
        for case in pictures.samplers(names, schedulers):
            self.compare("pictures", case)

    def models(self) -> None:
        """Embeddings, hypernetworks, upscalers and face restorers, one after another."""
        drawn = {}
        for case in models.cases():
            self.compare("models", case)
            _, body = self.fresh.draw(case.payload, case.endpoint)
            drawn[case.name] = pixels(body["images"] or [])
        for name, other in models.CHANGES.items():
            same = drawn[name] == drawn[other]
            self.table.add("models", name, f"the picture of {other}" if same else "")
        self._by_address()
        for name, sent, words in models.refused():
            said = str(self.worker.run(sent).get("error"))
            self.table.add("models", name, "" if words in said else f"not refused as such: {said}")

    def faces(self) -> None:
        """By both restorers, with noise and without."""
        drawn = {}
        for case in models.faces():
            self.compare("faces", case)
            _, body = self.fresh.draw(case.payload, case.endpoint)
            drawn[case.name] = pixels(body["images"])
        for name in ("by CodeFormer", "by GFPGAN"):
            same = drawn[name] == drawn["nothing"]
            self.table.add("faces", f"{name} at all", "it does not change them" if same else "")

    def _by_address(self) -> None:
        """An embedding from an address, and the same words before and after, as words."""
        folder, word = self.bench.folder / "around" / "by-address", models.BY_ADDRESS
        words = {**BASE, "prompt": f"a fox, {word}"}
        plain = Case(name="words", value=words)
        drawn = {}
        with models.serving(folder) as address:
            url = f"{address}/{word}.safetensors"
            asked = {**words, "embeddings": [{"name": word, "url": url}]}
            for name in ("first", "again"):
                self.compare("models", plain, name=f"the words before an embedding, {name}")
                file = folder / f"{word}.safetensors"
                _, body = self.fresh.draw(words, embedding=file)
                output = self.worker.run(asked)
                ours = pixels(output["images"]) if "images" in output else _message(output)
                theirs = pixels(body["images"])
                difference = "" if ours == theirs else f"{ours} instead of {theirs}"
                self.table.add("models", f"an embedding by address, {name}", difference)
                drawn[name] = theirs
            self.compare("models", plain, name="the words after an embedding")
        same = drawn["first"] == pixels(self.fresh.draw(words)[1]["images"])
        self.table.add("models", "it changes the picture", "it does not" if same else "")

    def samplers(self) -> None:
        names, schedulers = _offers(self.bench)
        for case in cases.samplers(names, schedulers):
            self.compare("sampler", case)

    def history(self) -> None:
        """Every request after every other one."""
        self._walk(cases.history()[0])

    def history_xl(self) -> None:
        self._walk(cases.history()[1])

    def _walk(self, asked: list[Case]) -> None:
        path = cases.walk(len(asked))
        for before, after in zip([None, *path], path, strict=False):
            name = "nothing" if before is None else asked[before].name
            self.compare("history", asked[after], name=f"{asked[after].name} after {name}")

    def repeat(self) -> None:
        """One job 50 times among 500 others, by chance."""
        chance = random.Random(1)
        asked, _ = cases.history()
        jobs = [asked[0]] * 50 + [chance.choice(asked[1:]) for _ in range(500)]
        chance.shuffle(jobs)
        for number, job in enumerate(jobs):
            self.compare("repeat", job, name=f"{job.name}, number {number}")

    def loras(self) -> None:
        """A LoRA counts as applied if, and only if, it changes a fresh webui's picture."""
        without = pixels(self.fresh.draw(BASE)[1]["images"])
        for path in sorted((self.bench.folder / "loras").glob("*.safetensors")):
            if path.stem.startswith(("tiny-", "xl-")):
                continue
            case = Case(
                name=path.stem, value={**BASE, "prompt": f"{BASE['prompt']}<lora:{path.stem}:1>"}
            )
            status, body = self.fresh.draw(case.payload)
            has_effect = status == 200 and pixels(body["images"]) != without
            output = self.worker.run(case.value)
            found = recognise(read_header(path))
            refused = found.problem or (found.family not in {None, "sd1"} and found.family)
            said = _message(output) if "error" in output else ""
            print(
                f"  {path.stem:<22} {found.kind:<22} fresh webui: {'changed' if has_effect else 'no effect' if status == 200 else status}; "
                f"worker: {said or 'applied'}; lock: {'refused' if refused else 'taken'}",
                flush=True,
            )
            difference = ""
            if "error" in output:
                difference = f"failed ({said}) although it has an effect" if has_effect else ""
            elif status != 200:
                difference = f"drawn, the webui answers {status}"
            elif not has_effect:
                difference = "said to be applied, without effect"
            elif pixels(output["images"]) != pixels(body["images"]):
                difference = "another picture"
            self.table.add("lora", path.stem, difference)
            if refused and has_effect:
                self.table.add(
                    "lora", f"{path.stem} at lock", f"refused ({refused}), has an effect"
                )

    def ends(self) -> None:
        """After a time-out, an error and a kill the next picture is a fresh webui's."""
        base = Case(name="base", value=dict(BASE))
        slow = {
            **BASE,
            "steps": 150,
            "width": 256,
            "height": 256,
            "prompt": f"{LONG}<lora:lora-f32:1>",
        }
        said = _message(self.worker.run(slow))
        self.table.add("end", "a job that takes too long", "" if "took longer" in said else said)
        self.compare("end", base, name="after a time-out")
        self.worker.kill_webui()
        self.compare("end", base, name="after a kill between jobs")
        self.worker.run({**BASE, "width": 7, "height": 7})
        self.compare("end", base, name="after an error")


def _message(output: dict[str, Any]) -> str:
    text = output.get("error", "")
    try:
        error = json.loads(text)
        return f"{error['code']}: {error['message']}"
    except (ValueError, KeyError, TypeError):
        return str(text)[:200]


def _compare_info(ours: str, theirs: str) -> str:
    """The webui's own account of it must be the same but for the prompt's tags and the time."""
    mine, fresh = json.loads(ours), json.loads(theirs)
    changing = {"job_timestamp", "prompt", "all_prompts", "infotexts", "extra_generation_params"}
    if not fresh["subseed_strength"]:
        changing |= {"subseed", "all_subseeds"}  # drawn anew each time, and not used
    keys = [key for key in fresh if key not in changing and mine.get(key) != fresh[key]]
    return f"info differs in {', '.join(keys)}" if keys else ""


def _offers(bench: Bench) -> tuple[list[str], list[str]]:
    """Samplers and schedulers, from the worker's own webui."""
    import urllib.request  # noqa: PLC0415

    port = json.loads((bench.folder / "worker" / "worker.json").read_text())["webui"]["port"]
    found = []
    for path, key in (("samplers", "name"), ("schedulers", "label")):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/sdapi/v1/{path}") as answer:
            found.append([each[key] for each in json.load(answer)])
    return found[0], found[1]


def make_checkpoints(bench: Bench) -> None:
    models = bench.folder / "models"
    if all((models / f"{name}.safetensors").exists() for name in (*SMALL, *TINY)):
        return
    script = ROOT / "benchmarks" / "make_checkpoints.py"
    command = [str(bench.python), str(script), "--webui", str(bench.webui), "--out", str(models)]
    subprocess.run(
        [*command, "--hf-home", str(bench.hf_home), *SMALL, *TINY],
        check=True,
        cwd=bench.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def make_models(bench: Bench, *faces: str) -> None:
    """What is around the smallest checkpoint; the models for faces, a gigabyte, only where they are asked for."""
    script = Path(__file__).with_name("make_models.py")
    checkpoint = bench.folder / "models" / f"{TINY[0]}.safetensors"
    command = [str(bench.python), str(script), str(checkpoint), str(bench.folder / "around")]
    subprocess.run([*command, *faces], check=True, cwd=bench.folder)


def library_loras(bench: Bench, python: Path) -> None:
    """Those of lycoris-lora, peft and diffusers themselves."""
    script = Path(__file__).with_name("library_loras.py")
    subprocess.run(
        [str(python), str(script), str(bench.folder / "loras")], check=True, cwd=bench.folder
    )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--webui", type=Path, required=True, help="the folder of webui.py")
    parser.add_argument("--python", type=Path, required=True, help="the webui's interpreter")
    parser.add_argument(
        "--lora-python", type=Path, help="an interpreter with lycoris-lora, peft and diffusers"
    )
    parser.add_argument("--folder", type=Path, help="keep checkpoints and logs here")
    parser.add_argument("--boot", default="all", help="BAKERY_BOOT of the worker")
    parser.add_argument(
        "parts",
        nargs="*",
        help=", ".join(PARTS) + "; all but repeat and faces if left out",
    )
    given = parser.parse_args()
    for option, python in (("--python", given.python), ("--lora-python", given.lora_python)):
        if python and not shutil.which(python):
            parser.error(
                f"{option}: {python} is no program; name the interpreter of the webui's environment"
            )
    return given


def main() -> int:
    options = read_arguments()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="webui-check-"))).resolve()
    bench = Bench(
        webui=options.webui.resolve(),
        python=options.python.absolute(),
        hf_home=folder / "hf",
        folder=folder,
    )
    for each in ("models", "loras", "vaes"):
        (folder / each).mkdir(parents=True, exist_ok=True)
    # Ended from outside, it ends its webuis too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    make_checkpoints(bench)
    make_all(folder / "models" / "small.safetensors", folder / "loras")
    make_xl(folder / "models" / "smallxl.safetensors", folder / "loras")
    make_tiny(folder / "models" / "tiny.safetensors", folder / "loras")
    wanted = {"models", "faces"} & set(options.parts or PARTS)
    if wanted:
        make_models(bench, *wanted & {"faces"} & set(options.parts))
    if options.lora_python:
        library_loras(bench, options.lora_python)
    table = Table()
    for checkpoints, names in _chosen(options.parts):
        fresh = FreshWebui(bench, checkpoints[0])
        worker = WorkerOverWebui(
            bench,
            checkpoints,
            BAKERY_BOOT=options.boot,
            BAKERY_JOB_TIMEOUT_S="300" if "faces" in names else "100",
            BAKERY_LORA_LOOPBACK="1",
        )
        try:
            fresh.wait()
            worker.wait()
            check = Check(bench, fresh, worker, table)
            for name in names:
                since = time.monotonic()
                getattr(check, name)()
                print(f"{name}: {time.monotonic() - since:.0f} s", flush=True)
        finally:
            worker.stop()
            fresh.stop()
    _print_table(table, time.monotonic() - began, folder)
    return 0 if table.is_clean else 1


PARTS = {
    "fields": TINY,
    "clients": TINY,
    "samplers": TINY,
    "pictures": TINY,
    "models": TINY,
    "faces": TINY,
    "loras": SMALL,
    "history_xl": SMALL,
    "ends": SMALL,
    "history": TINY,
    "repeat": TINY,
}


def _chosen(asked: Iterable[str]) -> list[tuple[tuple[str, ...], list[str]]]:
    """The parts of each worker."""
    wanted = list(asked) or [name for name in PARTS if name not in {"repeat", "faces"}]
    if unknown := sorted(set(wanted) - set(PARTS)):
        sys.exit(f"unknown part: {', '.join(unknown)} (choose from {', '.join(PARTS)})")
    both = [(group, [name for name in wanted if PARTS[name] == group]) for group in (SMALL, TINY)]
    return [(group, names) for group, names in both if names]


def _print_table(table: Table, seconds: float, folder: Path) -> None:
    compared = ", ".join(f"{count} {part}" for part, count in table.counts.items())
    open_rows = [row for row in table.rows if row[3] is None]
    print(f"\ncompared: {compared}; {seconds:.0f} s; logs in {folder}")
    print(f"deliberate: {len(table.rows) - len(open_rows)}; differences: {len(open_rows)}")
    for part, case, difference, _ in open_rows:
        print(f"| {part} | {case} | {difference} |")


if __name__ == "__main__":
    sys.exit(main())
