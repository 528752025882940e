"""Packs the check on a card for a machine that has bash, tar, coreutils and NVIDIA's driver, and nothing else.

    python -m benchmarks.gpu.pack --webui FOLDER --python INTERPRETER --hf-home FOLDER --card 8.9 \\
        [--xformers WHEEL] [--nvidia] [--piece-mb 56] [--preset 6] --out FOLDER

FOLDER gets `run`, `unpack.py`, `SHA256SUMS`, `blocks.json`, and pieces of at most `--piece-mb` MB: `piece-00`, a tar of
the interpreter with the libraries that it needs, and `piece-01` and on, the rest as one tar in blocks of xz, which
that interpreter unpacks. Packed are the webui, its environment without what `requirements/slim.py` leaves out, the
vocabulary, this repository's runtime and benchmarks; weights are made on the target. benchmarks/gpu/README.md says the
rest. `--nvidia` zeroes other cards' code in NVIDIA's libraries too, which may then not be passed on.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
BLOCK_BYTES = 32 << 20
"""Of the tar, compressed by itself: blocks are packed and unpacked side by side."""
MOST_MB = 60
ABOUT = """
import json, sys, sysconfig
print(json.dumps({
    "prefix": sys.base_prefix, "name": "python%d.%d" % sys.version_info[:2], "version": sys.version.split()[0],
    "packages": sysconfig.get_path("purelib"), "standard": sysconfig.get_path("stdlib"),
}))
"""
GLIBC = re.compile(
    r"^(ld-linux.*|lib(c|m|dl|pthread|rt|util|resolv|anl|nsl|nss_\w+|cuda|nvidia-\w+))\.so[.\d]*$"
)
"""Of the target, never ours: the C library, and the driver's."""
TARGETS_FIRST = ("libstdc++.so.6", "libgcc_s.so.1")
"""Ours where the target has none: those of a newer system need a newer C library."""
NOT_PACKED = {
    "standard": "test idlelib tkinter turtledemo ensurepip lib2to3 site-packages config-* lib-dynload/_tkinter* "
    "lib-dynload/_curses* lib-dynload/readline* lib-dynload/nis* lib-dynload/_test* lib-dynload/_ctypes_test* "
    "lib-dynload/_crypt* distutils/tests unittest/test sqlite3/test ctypes/test",
    # as requirements/webui-overrides.txt: nothing imports them
    "packages": "pip pip-* numba* llvmlite* hf_xet* triton*",
    "webui": ".git .github cache outputs log config_states test tmp screenshot.png config.json ui-config.json "
    "params.txt extensions/* models/Stable-diffusion/* models/Lora/* models/VAE/*",
    "hf": "",
    "source": "",
}
"""By folder, what is left out of it; `__pycache__` everywhere, which is compiled on the target."""
WEIGHTS = {".safetensors", ".ckpt", ".pt", ".pth", ".bin"}


def main() -> int:
    options = read_arguments()
    options.out.mkdir(parents=True)
    about = ask_interpreter(options.python)
    with tempfile.TemporaryDirectory(prefix="gpu-pack-", dir=options.out.parent) as folder:
        tree = Path(folder)
        lay_interpreter(tree, about)
        lay_packages(tree, about, options)
        lay_webui(tree, options)
        glibc = needed_glibc(lay_libraries(tree))
        sizes = write_pieces(tree, options)
    write_rest(options.out, about, glibc, options)
    total = sum(sizes)
    print(
        f"{options.out}: {len(sizes)} pieces, {total / 1e6:.0f} MB, the largest {max(sizes) / 1e6:.1f} MB; "
        f"for sm_{options.card.replace('.', '')}; needs glibc 2.{glibc} or newer"
    )
    return 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--webui", type=Path, required=True, help="a webui 1.9.3, with its repositories"
    )
    parser.add_argument(
        "--python", type=Path, required=True, help="the interpreter of its environment"
    )
    parser.add_argument(
        "--hf-home", type=Path, required=True, help="HF_HOME with CLIP's vocabulary"
    )
    parser.add_argument("--card", required=True, help="compute capability, such as 8.9 or 9.0")
    parser.add_argument("--xformers", type=Path, help="a wheel, where the environment lacks it")
    parser.add_argument("--nvidia", action="store_true", help="zero in NVIDIA's libraries too")
    parser.add_argument("--piece-mb", type=float, default=56)
    parser.add_argument("--preset", type=int, default=6, help="xz's, 0 to 9")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    options = parser.parse_args()
    if not re.fullmatch(r"\d+\.\d", options.card):
        parser.error(f"--card {options.card} is no compute capability such as 8.9")
    if not 1 <= options.piece_mb <= MOST_MB:
        parser.error(f"--piece-mb is 1 to {MOST_MB}")
    if not 0 <= options.preset <= 9:
        parser.error("--preset is 0 to 9")
    if not (options.webui / "webui.py").is_file():
        parser.error(f"{options.webui} has no webui.py")
    if options.out.exists():
        parser.error(f"{options.out} is there already")
    options.out = options.out.absolute()
    return options


def ask_interpreter(python: Path) -> dict[str, str]:
    """Where an interpreter and its environment lie, and which it is."""
    done = subprocess.run([python, "-c", ABOUT], capture_output=True, text=True, check=True)
    about: dict[str, str] = json.loads(done.stdout)
    return about


def leaves_out(root: Path, what: str) -> Callable[[str, list[str]], set[str]]:
    """For `shutil.copytree`: what a row of `NOT_PACKED` names below `root`, and bytecode."""
    out = {path for pattern in NOT_PACKED[what].split() for path in root.glob(pattern)}

    def ignore(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if name == "__pycache__" or Path(folder, name) in out}

    return ignore


def copy_tree(source: Path, target: Path, what: str) -> None:
    """Links that lead out of the folder are followed, or left out where they lead nowhere."""
    shutil.copytree(
        source,
        target,
        ignore=leaves_out(source, what),
        ignore_dangling_symlinks=True,
        dirs_exist_ok=True,
    )


def lay_interpreter(tree: Path, about: dict[str, str]) -> None:
    """`python/`: it finds its library beside itself, wherever it lies."""
    prefix, name = Path(about["prefix"]), about["name"]
    (tree / "python" / "bin").mkdir(parents=True)
    shutil.copy((prefix / "bin" / name).resolve(), tree / "python" / "bin" / name)
    (tree / "python" / "bin" / "python").symlink_to(name)
    copy_tree(Path(about["standard"]), tree / "python" / "lib" / name, "standard")


def lay_packages(tree: Path, about: dict[str, str], options: argparse.Namespace) -> None:
    """The environment in the interpreter's own site-packages, slimmed for one card."""
    packages = tree / "python" / "lib" / about["name"] / "site-packages"
    copy_tree(Path(about["packages"]), packages, "packages")
    if options.xformers is not None:
        with zipfile.ZipFile(options.xformers) as wheel:
            wheel.extractall(packages)
    slim = [
        sys.executable,
        REPOSITORY / "requirements" / "slim.py",
        packages,
        "--card",
        options.card,
    ]
    nvidia = ["--nvidia"] if options.nvidia else []
    subprocess.run(list(map(str, [*slim, *nvidia])), check=True, stdout=sys.stderr)


def lay_webui(tree: Path, options: argparse.Namespace) -> None:
    copy_tree(options.webui, tree / "webui", "webui")
    for path in (tree / "webui" / "models").rglob("*"):
        if path.suffix in WEIGHTS and path.is_file():
            path.unlink()
    copy_tree(options.hf_home, tree / "hf", "hf")
    for name in ("runtime", "benchmarks"):
        copy_tree(REPOSITORY / name, tree / "bakery" / name, "source")


def lay_libraries(tree: Path) -> list[Path]:
    """`lib/`, and `lib-c++/`: the libraries of this system that the interpreter and its packages are linked to.

    Returns:
        All that is linked to this system's C library: the interpreter and these.
    """
    kept: dict[str, Path] = {}
    for path in sorted((tree / "python").rglob("*")):
        if path.is_file() and not path.is_symlink() and is_elf(path):
            kept.update(linked_to(path, outside=tree))
    for name, source in kept.items():
        folder = tree / ("lib-c++" if name in TARGETS_FIRST else "lib")
        folder.mkdir(exist_ok=True)
        shutil.copy(source.resolve(), folder / name)
    own = [path for path in (tree / "python" / "bin").iterdir() if not path.is_symlink()]
    return [
        path.resolve()
        for path in [*own, *tree.glob("python/lib/*/lib-dynload/*.so"), *tree.glob("lib/*")]
    ]


def linked_to(path: Path, *, outside: Path) -> Iterator[tuple[str, Path]]:
    """Name and file of each library, of those that lie outside a folder (`ldd`)."""
    done = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        name, arrow, found = line.strip().partition(" => ")
        where = found.partition(" (")[0]
        is_file = arrow and where.startswith("/") and not GLIBC.match(name)
        if is_file and not Path(where).resolve().is_relative_to(outside.resolve()):
            yield name, Path(where)


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def needed_glibc(files: Iterable[Path]) -> int:
    """The newest version of the C library that any of these asks for: N of 2.N."""
    asked = [
        int(found)
        for path in files
        for found in re.findall(rb"GLIBC_2\.(\d+)\0", path.read_bytes())
    ]
    return max(asked, default=17)


def write_pieces(tree: Path, options: argparse.Namespace) -> list[int]:
    """`piece-00` and on; returns their sizes in bytes."""
    first = tree_of_interpreter(tree)
    path = options.out / "piece-00"
    with tarfile.open(path, "w") as tar:
        add_all(tar, tree, first)
    limit = int(options.piece_mb * 1e6)
    if path.stat().st_size > limit:
        raise SystemExit(f"the interpreter alone is {path.stat().st_size / 1e6:.0f} MB")
    pieces = Pieces(options.out, limit)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        blocks = Blocks(pool, pieces, options.preset)
        done = set(first)
        rest = [each for each in all_files(tree) if each not in done]
        with tarfile.open(fileobj=blocks, mode="w|") as tar:
            add_all(tar, tree, rest)
        blocks.finish()
    pieces.close()
    text = json.dumps({"pieces": pieces.names, "blocks": blocks.sizes}, indent=1)
    (options.out / "blocks.json").write_text(text + "\n", encoding="utf-8")
    return [(options.out / name).stat().st_size for name in ("piece-00", *pieces.names)]


def all_files(tree: Path) -> list[Path]:
    """Everything but folders, sorted, by kind where that makes it smaller: like beside like."""
    files = [path for path in tree.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(files, key=lambda path: (path.suffix, path))


def tree_of_interpreter(tree: Path) -> list[Path]:
    """What is needed to unpack the rest."""
    own = [tree / "lib", tree / "lib-c++", tree / "python"]
    return [
        path
        for path in all_files(tree)
        if any(path.is_relative_to(each) for each in own) and "site-packages" not in path.parts
    ]


def add_all(tar: tarfile.TarFile, tree: Path, paths: Iterable[Path]) -> None:
    """Adds files under their paths below the tree, as nobody's."""
    for path in paths:
        info = tar.gettarinfo(path, str(path.relative_to(tree)))
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.mode & 0o100 else 0o644
        if info.isreg():
            with path.open("rb") as file:
                tar.addfile(info, file)
        else:
            tar.addfile(info)


class Pieces:
    """Bytes, cut into files of one size."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.names: list[str] = []
        self._folder, self._limit, self._left = folder, limit, 0
        self._file: Any = None

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if not self._left:
                self.close()
                self.names.append(f"piece-{len(self.names) + 1:02}")
                self._file = (self._folder / self.names[-1]).open("wb")
                self._left = self._limit
            part = view[: self._left]
            self._file.write(part)
            self._left -= len(part)
            view = view[len(part) :]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Blocks(io.RawIOBase):
    """A stream whose bytes are compressed block by block, several at once, and written in order."""

    def __init__(self, pool: ThreadPoolExecutor, pieces: Pieces, preset: int) -> None:
        self.sizes: list[int] = []
        """Of each block, compressed."""
        self._pool, self._pieces, self._preset = pool, pieces, preset
        self._waiting: deque[Future[bytes]] = deque()
        self._buffer = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._buffer += data
        while len(self._buffer) >= BLOCK_BYTES:
            self._submit(bytes(self._buffer[:BLOCK_BYTES]))
            del self._buffer[:BLOCK_BYTES]
        return len(data)

    def finish(self) -> None:
        """Writes what is left."""
        self._submit(bytes(self._buffer))
        while self._waiting:
            self._take()

    def _submit(self, block: bytes) -> None:
        # lzma lets go of the interpreter's lock
        self._waiting.append(self._pool.submit(lzma.compress, block, preset=self._preset))
        if len(self._waiting) > 4:
            self._take()

    def _take(self) -> None:
        packed = self._waiting.popleft().result()
        self.sizes.append(len(packed))
        self._pieces.write(packed)


def write_rest(
    folder: Path, about: dict[str, str], glibc: int, options: argparse.Namespace
) -> None:
    """What is not a piece: small files, with the hashes of all."""
    for name in ("run", "unpack.py"):
        shutil.copy(HERE / name, folder / name)
    text = json.dumps(
        {"card": options.card, "glibc": f"2.{glibc}", "python": about["version"]}, sort_keys=True
    )
    (folder / "pack.json").write_text(text + "\n", encoding="utf-8")
    lines = []
    for path in sorted(folder.iterdir()):
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
