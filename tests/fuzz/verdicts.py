"""What is right and what is a failure: exit codes, lines, outputs and the files left behind."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mutations import Mutation
from process import BUG, Ended
from target import Target

from synbrain_cli.io.files import HALF_WRITTEN

LONGEST = 2000  # characters of a message
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_DATA = re.compile(rb'"data": ("[0-9a-f]*"|\[[^]]*\])')  # of what results are, sealed again or not
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


@dataclass(frozen=True)
class Failure:
    """A kind of failure, what distinguishes it from others of its kind, and its text."""

    kind: str
    place: str
    text: str


@dataclass(frozen=True)
class Tried:
    """A mutant after its command: what was damaged, how it went, what is there now."""

    target: Target
    victim: str  # relative to the workspace
    mutation: Mutation
    resealed: bool
    changed: bool  # whether the damaged file differs at all
    ended: Ended
    before: dict[str, tuple]
    after: dict[str, tuple]

    @property
    def is_free(self) -> bool:
        """Whether only damage that the file itself tells counts."""
        return self.resealed or matches(self.victim, self.target.free)


def matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def listing(folder: Path) -> dict[str, tuple]:
    """Every entry below a folder: kind, size and time of its last change."""
    found = {}
    for path, _, names in os.walk(folder):
        for name in (*names, "."):
            entry = Path(path) / name
            state = entry.lstat()
            kind = stat.S_IFMT(state.st_mode)
            if kind == stat.S_IFDIR:
                found[entry.relative_to(folder).as_posix() + "/"] = (kind,)
            else:
                key = entry.relative_to(folder).as_posix()
                found[key] = (kind, state.st_size, state.st_mtime_ns)
    return found


def digests(workspace: Path, patterns: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the files that match, without the workspace's path and the data's checksums."""
    found = {}
    own = str(workspace).encode()
    for pattern in patterns:
        for path in sorted(workspace.glob(pattern)):
            if path.is_file():
                content = path.read_bytes().replace(own, b"")
                if path.suffix == ".json":
                    content = _DATA.sub(b"", content)
                name = path.relative_to(workspace).as_posix()
                found[name] = hashlib.sha256(content).hexdigest()
    return found


def judge(tried: Tried) -> Iterator[Failure]:
    """The failures of a mutant, without the comparison of its output."""
    ended = tried.ended
    if ended.hung:
        yield Failure("hang", tried.target.name, ended.hung)
    elif "Traceback (most recent call last)" in ended.error or ended.code == BUG:
        yield Failure("traceback", _place(ended.error), ended.error.strip().splitlines()[-1][:300])
    elif ended.code not in (0, 1, 2):
        yield Failure("exit code", str(ended.code), ended.error[-300:])
    else:
        yield from _lines(tried)
    for text in ended.watched:
        yield Failure("outside", text.split()[0], text)
    yield from _files(tried)
    unnoticed = tried.changed and not tried.resealed and ended.code == 0
    if unnoticed and matches(tried.victim, tried.target.verifies):
        yield Failure("not noticed", f"{tried.target.name}: {_name(tried.victim)}", "exit code 0")


def output_changed(tried: Tried, expected: dict[str, str], found: dict[str, str]) -> list[Failure]:
    """A success that gives something else, where a check could have told."""
    differ = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    if tried.before.get(tried.victim) == tried.after.get(tried.victim):
        differ = [name for name in differ if name != tried.victim]  # it was not written
    if not differ or (tried.is_free and not tried.mutation.tellable):
        return []
    if tried.resealed and "another preparation" in tried.ended.error + tried.ended.output:
        return []  # results say that the model is not of this data, sealed again
    place = f"{tried.target.name}: {_name(tried.victim)}"
    return [Failure("silent", place, f"other {', '.join(differ[:4])}")]


def must_be_equal(tried: Tried) -> bool:
    """Whether the output has to be compared with that of the undamaged files."""
    return tried.ended.code == 0 and (not tried.is_free or tried.mutation.tellable)


def _name(victim: str) -> str:
    return Path(victim).name


def _place(error: str) -> str:
    """Type of the exception, and the deepest line of the package in its traceback."""
    last = error[error.rfind("Traceback (most recent call last)") :]
    frames = [f for f in _FRAME.findall(last) if "synbrain_cli" in f[0]]
    kind = last.strip().splitlines()[-1].split(":")[0][:80] if last.strip() else "?"
    if not frames:
        return kind
    file, _, function = frames[-1]
    return f"{kind} in {file.rpartition('synbrain_cli/')[2]} {function}"


def _lines(tried: Tried) -> Iterator[Failure]:
    ended, name = tried.ended, tried.target.name
    lines = ended.error.splitlines()
    ours = [line for line in lines if line.startswith("synbrain: ")]
    if ended.code == 1 and not tried.target.many_lines:
        others = [line for line in lines if line not in ours]
        if len(ours) != 1:
            yield Failure("lines", f"{name}: {len(ours)} of ours", ended.error[:300])
        if others:
            yield Failure("noise", _what(others[0]), others[0][:300])
    elif ended.code == 0 and lines:
        yield Failure("noise", _what(lines[0]), lines[0][:300])
    if any(len(line) > LONGEST for line in lines):
        yield Failure("long message", name, max(lines, key=len)[:200])
    for text in (ended.output, ended.error):
        if found := _CONTROL.search(text):
            around = text[max(0, found.start() - 60) : found.end() + 20]
            yield Failure("control characters", name, repr(around))


def _what(line: str) -> str:
    """A line of somebody else, without its numbers and paths."""
    return re.sub(r"/\S+/|\d+", "", line)[:80]


def _files(tried: Tried) -> Iterator[Failure]:
    target = tried.target
    for name, state in tried.before.items():
        now = tried.after.get(name)
        # The time of a folder says nothing, and a FIFO or link has to be there only.
        if now != state and not matches(name, target.writes):
            gone = "gone" if now is None else "changed"
            yield Failure("lost", f"{target.name}: {gone}", f"{name}: {gone}")
            break
    left = [n for n in tried.after if f"/{HALF_WRITTEN}" in f"/{n}" and n not in tried.before]
    if left:
        yield Failure("litter", target.name, ", ".join(left[:3]))
