"""Damage to one file: what it becomes, and whether the file itself could tell.

A `Mutation` says what was done, with every number, and whether a consistency check or a checksum
inside the file could have told (`tellable`): only then is a changed result with exit code 0 a
failure where users may change the file. Structure-aware damage is in `structured`.
"""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Rng = np.random.Generator
# What a mutator of bytes returns: what was done, the new bytes, whether the file could tell.
Damage = tuple[str, bytes, bool]
ByteMutator = Callable[[bytes, Rng], Damage]

# Formats with checksums of their own, in which damage to any byte can be noticed.
CHECKSUMMED = (".gz", ".mgz", ".npz", ".pt", ".pth", ".png")
# Formats whose header says how long the file is, to its end.
OF_KNOWN_LENGTH = (".npy", ".nii", ".safetensors")
TEXTS = (".json", ".tsv", ".csv", ".md", ".txt")


@dataclass(frozen=True)
class Mutation:
    """What was done to a file."""

    what: str
    tellable: bool


@dataclass(frozen=True)
class Victim:
    """A file to be damaged, and others of its kind.

    ``path`` may be a hard link to a file that others share: it is replaced, never written into.
    A table may be a list, without a header.
    """

    path: Path
    others: tuple[Path, ...] = ()
    is_list: bool = False

    def rewrite(self, data: bytes) -> None:
        self.remove()
        self.path.write_bytes(data)

    def remove(self) -> None:
        self.path.unlink()


def one_of(rng: Rng, choices: Sequence):
    return choices[int(rng.integers(len(choices)))]


# ------------------------------------------------------------------------------------- bytes


def flip_bits(data: bytes, rng: Rng) -> Damage:
    changed = bytearray(data)
    places = sorted(int(i) for i in rng.integers(0, len(data), one_of(rng, (1, 1, 3, 20))))
    for place in places:
        changed[place] ^= 1 << int(rng.integers(8))
    return f"bits flipped at {places}", bytes(changed), False


def flip_early_bit(data: bytes, rng: Rng) -> Damage:
    """Where headers are."""
    changed = bytearray(data)
    place = int(rng.integers(min(len(data), 400)))
    changed[place] ^= 1 << int(rng.integers(8))
    return f"bit flipped at {place}", bytes(changed), False


def _run(data: bytes, rng: Rng) -> tuple[int, int]:
    length = min(len(data), int(one_of(rng, (1, 8, 64, 512, 4096))))
    return int(rng.integers(0, len(data) - length + 1)), length


def zero_run(data: bytes, rng: Rng) -> Damage:
    start, n = _run(data, rng)
    return f"bytes {start}–{start + n} zeroed", data[:start] + bytes(n) + data[start + n :], False


def random_run(data: bytes, rng: Rng) -> Damage:
    start, n = _run(data, rng)
    changed = data[:start] + rng.bytes(n) + data[start + n :]
    return f"bytes {start}–{start + n} random", changed, False


def duplicate_run(data: bytes, rng: Rng) -> Damage:
    start, n = _run(data, rng)
    return f"bytes {start}–{start + n} twice", data[: start + n] + data[start:], False


def remove_run(data: bytes, rng: Rng) -> Damage:
    start, n = _run(data, rng)
    return f"bytes {start}–{start + n} removed", data[:start] + data[start + n :], False


def truncate(data: bytes, rng: Rng) -> Damage:
    length = int(one_of(rng, (1, 7, len(data) // 2, len(data) - 1, int(rng.integers(len(data))))))
    return f"cut after {length} bytes", data[:length], False


def extend(data: bytes, rng: Rng) -> Damage:
    more = one_of(rng, (b"\0", b"\n", bytes(1000), rng.bytes(100), data[:1000]))
    return f"{len(more)} bytes more at the end", data + more, False


def empty(data: bytes, rng: Rng) -> Damage:
    return "emptied", b"", True


BYTES: tuple[ByteMutator, ...] = (
    *(flip_bits, flip_bits, flip_early_bit, zero_run, random_run, duplicate_run, remove_run),
    *(truncate, truncate, extend, empty),
)


def damage_bytes(victim: Victim, rng: Rng) -> Mutation:
    """Bytes of the file as it is stored."""
    data = victim.path.read_bytes()
    mutator = one_of(rng, BYTES) if data else extend
    what, changed, tellable = mutator(data, rng)
    victim.rewrite(changed)
    suffix = victim.path.suffix
    by_length = mutator is truncate and suffix not in TEXTS
    by_length |= mutator in (extend, remove_run, duplicate_run) and suffix in OF_KNOWN_LENGTH
    # Archives and images may be followed by something that is not theirs.
    by_checksum = suffix in CHECKSUMMED and mutator is not extend
    return Mutation(what, tellable or by_checksum or by_length)


def inside_gzip(mutator: ByteMutator) -> ByteMutator:
    """The same done to what is compressed, with a right checksum afterwards."""

    def damage(data: bytes, rng: Rng) -> Damage:
        what, changed, tellable = mutator(gzip.decompress(data), rng)
        return f"{what} (inside gzip)", gzip.compress(changed, 1, mtime=0), tellable

    return damage


def as_mutator(mutator: ByteMutator) -> Callable[[Victim, Rng], Mutation]:
    """Mutator of a file, of one of bytes."""

    def damage(victim: Victim, rng: Rng) -> Mutation:
        what, changed, tellable = mutator(victim.path.read_bytes(), rng)
        victim.rewrite(changed)
        return Mutation(what, tellable)

    return damage


# ------------------------------------------------------------------------------- file system


def swap(victim: Victim, rng: Rng) -> Mutation:
    if not victim.others:
        return damage_bytes(victim, rng)
    other = one_of(rng, victim.others)
    victim.rewrite(other.read_bytes())
    return Mutation(f"content of {other.name} of {other.parent.name}", tellable=False)


def delete(victim: Victim, rng: Rng) -> Mutation:
    victim.remove()
    return Mutation("deleted", tellable=False)


def become_folder(victim: Victim, rng: Rng) -> Mutation:
    victim.remove()
    victim.path.mkdir()
    if rng.random() < 0.5:
        (victim.path / "file.txt").write_text("1\n")
    return Mutation("a folder", tellable=True)


def become_fifo(victim: Victim, rng: Rng) -> Mutation:
    victim.remove()
    os.mkfifo(victim.path)
    return Mutation("a FIFO", tellable=True)


def become_loop(victim: Victim, rng: Rng) -> Mutation:
    victim.remove()
    victim.path.symlink_to(victim.path.name)
    return Mutation("a symbolic link to itself", tellable=True)


def become_dangling(victim: Victim, rng: Rng) -> Mutation:
    victim.remove()
    victim.path.symlink_to("nothing-there")
    return Mutation("a dangling link", tellable=True)


def become_device(victim: Victim, rng: Rng) -> Mutation:
    victim.remove()
    device = one_of(rng, ("/dev/zero", "/dev/zero", "/dev/null"))
    victim.path.symlink_to(device)
    return Mutation(f"a link to {device}", tellable=True)


def become_unreadable(victim: Victim, rng: Rng) -> Mutation:
    """Of no effect for root, for whom nothing is unreadable: the output is then the same."""
    victim.rewrite(victim.path.read_bytes())
    victim.path.chmod(0)
    return Mutation("unreadable", tellable=True)


FILE_SYSTEM = (
    *(swap, swap, delete, become_folder, become_fifo, become_loop),
    *(become_dangling, become_device, become_unreadable),
)


def forget(path: Path) -> None:
    """Remove a tree of mutants, whatever became of its permissions."""
    shutil.rmtree(path, ignore_errors=True)
