"""Leaves out of a CUDA environment what a worker on one card never opens or runs.

    python3 slim.py SITE_PACKAGES --card 8.9 [--nvidia] [--json FILE]
    python3 slim.py SITE_PACKAGES --card 8.9 [--nvidia] --check
    python3 slim.py --list FILE…

The first form removes the files of `LEFT_OUT`, and overwrites with zeros the machine code of other cards in
the fat binaries of `FAT`: every header stays, so the CUDA driver, which picks code by the header, finds what it
found before, and no library changes its size. Zeros cost nothing on the wire. Libraries under NVIDIA's licence are
changed only with `--nvidia`: the CUDA toolkit's and cuDNN's licences let nobody distribute modified ones, so that is
for images which stay in one's own house.

The second form changes nothing, and fails where something of that is back: the last step of Dockerfile.base.

The third form prints, as JSON, for each card how many cubins the files (libraries or wheels) hold for it.

Standard library only: Dockerfile.base runs it, and `bake` asks it about ready-made wheels.
"""

from __future__ import annotations

import argparse
import json
import mmap
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LEFT_OUT = {
    "triton": "compiles kernels at run time, for which the image has no C compiler",
    "triton-*.dist-info": "goes with it",
    "nvidia/*/include": "headers",
    "torch/include": "headers",
    "torch/share": "files for CMake",
    "torch/test": "tests",
    "torch/bin/protoc*": "a compiler",
    "torch/bin/*test*": "tests; torch_shm_manager is asked for at the import",
    "**/*.a": "static archives",
    "**/*.lib": "another platform's",
    "nvidia/cublas/lib/libnvblas.so*": "stands in for a BLAS that nothing here uses",
    "nvidia/cuda_cupti/lib/lib[!c]*": "profiling; libcupti itself is linked",
    "nvidia/cuda_cupti/lib/libcheckpoint.so*": "profiling",
    "nvidia/cuda_nvrtc/lib/*.alt.so*": "a second build of the same library",
    "nvidia/cudnn/lib/libcudnn_*_train.so*": "training",
    "nvidia/cufft/lib/libcufftw.so*": "stands in for an FFTW that nothing here uses",
    "nvidia/cusolver/lib/libcusolverMg.so*": "several cards in one process",
    "numpy/**/tests": "tests",
    "pandas/tests": "tests",
    "scipy/**/tests": "tests",
    "skimage/**/tests": "tests",
    "sympy/**/tests": "tests",
    "networkx/**/tests": "tests",
    "matplotlib/tests": "tests",
}
"""Below the site-packages: pattern, and why no worker needs it."""

FAT = ("torch/lib/*.so*", "torchvision/*.so", "nvidia/nccl/lib/*.so*")
"""Libraries under a BSD licence, which may be changed."""
FAT_NVIDIA = ("nvidia/*/lib/*.so*",)
"""Libraries under NVIDIA's licences, which may not be passed on when changed."""

_MAGIC = struct.pack("<IH", 0xBA55ED50, 1)
_HEADER_BYTES = 16
_PTX, _CUBIN = 1, 2

Content = bytes | mmap.mmap


@dataclass(frozen=True)
class Entry:
    """One piece of code in a fat binary: a header, and the code for one kind of card behind it."""

    kind: int
    """1: PTX, which a driver can compile for later cards; 2: a cubin, machine code; others stay as they are."""
    architecture: int
    """As in `sm_89`: the major number times ten and the minor one."""
    begin: int
    """Where its code begins in the file, in bytes."""
    size: int
    """Bytes of code."""


def read_fat_binaries(content: Content) -> Iterator[tuple[Entry, ...]]:
    """The entries of each fat binary in a library, in the file's order.

    A fat binary is `magic u32, version u16, header bytes u16, content bytes u64` and entries, each
    `kind u16, version u16, header bytes u32, content bytes u64, …, architecture u32 at byte 28`. What does not
    add up to the byte is something else that looks like one.
    """
    at = content.find(_MAGIC)
    while at >= 0:
        entries, end = _read_entries(content, at)
        if entries:
            yield entries
        at = content.find(_MAGIC, end)


def _read_entries(content: Content, at: int) -> tuple[tuple[Entry, ...], int]:
    """The entries, and where to go on: nothing and the next byte where this is no fat binary."""
    nothing: tuple[tuple[Entry, ...], int] = ((), at + 4)
    if at + _HEADER_BYTES > len(content):
        return nothing
    header_bytes, content_bytes = struct.unpack_from("<HQ", content, at + 6)
    entry, end = at + header_bytes, at + header_bytes + content_bytes
    if header_bytes != _HEADER_BYTES or end > len(content):
        return nothing
    found = []
    while entry + 32 <= end:
        kind, entry_header_bytes, size = struct.unpack_from("<H2xIQ", content, entry)
        (architecture,) = struct.unpack_from("<I", content, entry + 28)
        if entry_header_bytes < 32:
            return nothing
        found.append(Entry(kind, architecture, entry + entry_header_bytes, size))
        entry += entry_header_bytes + size
    return (tuple(found), end) if entry == end else nothing


def foreign_to(card: int, entries: Sequence[Entry]) -> list[Entry]:
    """What of a fat binary a card does not run.

    Machine code runs on cards of the same major number and the same or a later minor one; a driver takes the
    latest that fits, and compiles PTX only where none does. Where none fits, nothing is foreign.
    """
    fitting = [
        each.architecture
        for each in entries
        if each.kind == _CUBIN
        and each.architecture // 10 == card // 10
        and each.architecture <= card
    ]
    if not fitting:
        return []
    return [
        each
        for each in entries
        if each.kind == _PTX or (each.kind == _CUBIN and each.architecture not in fitting)
    ]


@dataclass
class Saved:
    """What became smaller, in bytes."""

    removed: dict[str, int] = field(default_factory=dict)
    """By pattern of `LEFT_OUT`."""
    zeroed: dict[str, int] = field(default_factory=dict)
    """By library: code of other cards."""
    kept: dict[str, dict[str, int]] = field(default_factory=dict)
    """By library: how many cubins are left for which architecture."""


def slim(site_packages: Path, *, card: int, nvidia: bool = False) -> Saved:
    """Removes and overwrites, and says what.

    Args:
        site_packages: Of a virtual environment; changed in place.
        card: The architecture, as in `sm_89`.
        nvidia: Also change libraries under NVIDIA's licences.

    Raises:
        ValueError: no library holds code for the card, or one lacks a library that was removed.
    """
    saved = Saved()
    missing = find_missing(site_packages)
    for pattern in LEFT_OUT:
        for path in sorted(site_packages.glob(pattern)):
            saved.removed[pattern] = saved.removed.get(pattern, 0) + _remove(path)
    for name, path in _libraries(site_packages, nvidia=nvidia):
        _overwrite(path, name, card, saved)
    if not any(saved.kept.values()):
        raise ValueError(f"no library below {site_packages} holds code for sm_{card}")
    if lost := sorted(find_missing(site_packages) - missing):
        raise ValueError("; ".join(f"{who} needs {what}, which was left out" for who, what in lost))
    return saved


def find_back(site_packages: Path, *, card: int, nvidia: bool = False) -> list[str]:
    """What should have been left out or overwritten and is there, a text for each; arguments as for `slim`."""
    back = [
        f"{path.relative_to(site_packages)} is there again ({reason})"
        for pattern, reason in LEFT_OUT.items()
        for path in sorted(site_packages.glob(pattern))
    ]
    for name, path in _libraries(site_packages, nvidia=nvidia):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as read:
            found = {
                _dotted(each.architecture)
                for entries in read_fat_binaries(read)
                for each in foreign_to(card, entries)
                if read[each.begin : each.begin + each.size].strip(b"\0")
            }
        if found:
            back.append(f"{name} holds code of other cards again ({', '.join(sorted(found))})")
    return back


def _libraries(site_packages: Path, *, nvidia: bool) -> Iterator[tuple[str, Path]]:
    """The files of `FAT`, and with `nvidia` of `FAT_NVIDIA`: name and path of each, once."""
    seen: set[str] = set()
    for pattern in FAT + (FAT_NVIDIA if nvidia else ()):
        for path in sorted(site_packages.glob(pattern)):
            name = str(path.relative_to(site_packages))
            is_file = path.is_file() and not path.is_symlink() and path.stat().st_size
            if is_file and name not in seen:
                seen.add(name)
                yield name, path


def find_missing(site_packages: Path) -> set[tuple[str, str]]:
    """Library, and a library that it is linked to and the system's loader does not find (`ldd`)."""
    missing: set[tuple[str, str]] = set()
    for path in sorted(site_packages.rglob("*.so*")):
        if path.is_file() and not path.is_symlink() and _is_elf(path):
            answer = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
            name = str(path.relative_to(site_packages))
            for line in answer.stdout.splitlines():
                if line.endswith("=> not found"):
                    missing.add((name, line.split()[0]))
    return missing


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _remove(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        size = sum(each.lstat().st_size for each in path.rglob("*") if each.is_file())
        shutil.rmtree(path)
        return size
    size = path.lstat().st_size
    path.unlink()
    return size


def _overwrite(path: Path, name: str, card: int, saved: Saved) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        zeroed, kept, any_code = 0, {}, False  # type: int, dict[str, int], bool
        for entries in list(read_fat_binaries(content)):
            any_code = True
            foreign = foreign_to(card, entries)
            for each in foreign:
                content[each.begin : each.begin + each.size] = bytes(each.size)
                zeroed += each.size
            for each in entries:
                if each.kind == _CUBIN and each not in foreign:
                    kept[_dotted(each.architecture)] = kept.get(_dotted(each.architecture), 0) + 1
    if any_code:
        saved.zeroed[name], saved.kept[name] = zeroed, dict(sorted(kept.items()))


def _dotted(architecture: int) -> str:
    return f"{architecture // 10}.{architecture % 10}"


def list_architectures(files: Sequence[Path]) -> dict[str, int]:
    """For each card, such as `8.9`, how many cubins libraries or wheels hold for it; PTX is not counted.

    Raises:
        zipfile.BadZipFile: a wheel is no ZIP archive.
    """
    counts: dict[str, int] = {}
    for content in _contents(files):
        for entries in read_fat_binaries(content):
            for each in entries:
                if each.kind == _CUBIN:
                    counts[_dotted(each.architecture)] = (
                        counts.get(_dotted(each.architecture), 0) + 1
                    )
    return dict(sorted(counts.items()))


def _contents(files: Sequence[Path]) -> Iterator[bytes]:
    for path in files:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".so"):
                        yield archive.read(name)
        else:
            yield path.read_bytes()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--card", help="such as 8.9")
    parser.add_argument("--nvidia", action="store_true", help="change NVIDIA's libraries too")
    parser.add_argument("--check", action="store_true", help="only say what of it is back")
    parser.add_argument("--json", type=Path, help="write what was saved there")
    parser.add_argument("site_packages", nargs="?", type=Path)
    options = parser.parse_args(arguments)
    if options.list:
        print(json.dumps(list_architectures(options.list)))
        return 0
    if options.site_packages is None or options.card is None:
        parser.error("give SITE_PACKAGES and --card, or --list")
    card = int(options.card.replace(".", ""))
    if options.check:
        back = find_back(options.site_packages, card=card, nvidia=options.nvidia)
        print("\n".join(back) or "nothing that was left out is back")
        return 1 if back else 0
    saved = slim(options.site_packages, card=card, nvidia=options.nvidia)
    for what, sizes in (("left out", saved.removed), ("zeroed", saved.zeroed)):
        for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
            if size:
                print(f"{what}: {size / 1e6:8.1f} MB  {name}  {LEFT_OUT.get(name, '')}".rstrip())
    if options.json:
        options.json.write_text(json.dumps(vars(saved), indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
