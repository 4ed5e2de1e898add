"""Damage files of a tiny workspace in thousands of ways and judge what the commands make of them.

    python tests/fuzz/drive.py --mutants 3000 --seed 0
    python tests/fuzz/drive.py --mutants 0                      # until it is interrupted
    python tests/fuzz/drive.py --only 0:synthesize-sub-01:17    # one mutant again, with its output

A mutant is named by its seed, its target (`targets`) and its number within the target, which
determine all that is done to it. Right is exit code 0, 1 or 2, one line on stderr for 1, no
traceback, no hang, nothing touched outside of the workspace, nothing lost, and after 0 the output
of the undamaged files, unless the damage is one that nothing can tell from another input. Exit
code: 1 if any mutant failed.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import process  # noqa: E402
from mutations import Mutation, Victim, forget  # noqa: E402
from reseal import reseal  # noqa: E402
from structured import kind_of, mutate  # noqa: E402
from target import Target  # noqa: E402
from targets import TARGETS  # noqa: E402
from verdicts import (  # noqa: E402
    Failure,
    Tried,
    digests,
    judge,
    listing,
    matches,
    must_be_equal,
    output_changed,
)
from workspace import build  # noqa: E402

RESEALED = 0.5  # share of mutants that are sealed again where something seals them
REWRITTEN = ("outputs", "interrupted")  # parts in which the workspace's own path is written


@dataclass
class Mutant:
    """A copy of a target's files, one of them damaged."""

    seed: int
    target: Target
    number: int
    folder: Path
    victim: Path | None = None
    mutation: Mutation | None = None
    resealed: bool = False
    changed: bool = False
    before: dict[str, tuple] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.seed}:{self.target.name}:{self.number}"

    @property
    def workspace(self) -> Path:
        return self.folder / "ws"

    @property
    def records(self) -> Path:
        return self.folder / "records"

    @property
    def relative(self) -> str:
        return self.victim.relative_to(self.workspace).as_posix() if self.victim else ""


class Fuzzer:
    """Makes mutants of a workspace, runs their commands and keeps their failures.

    Parameters
    ----------
    base : path
        Folder of the workspace (`workspace.build`).
    scratch : path
        Folder of the mutants.
    keep : bool
        Whether mutants stay after they were judged.
    """

    def __init__(self, base: Path, scratch: Path, keep: bool = False) -> None:
        self.base, self.scratch, self.keep = base / "ws", scratch, keep
        self._expected: dict[str, dict[str, str]] = {}

    # ------------------------------------------------------------------------ a mutant

    def link(self, target: Target, workspace: Path) -> None:
        """Hard links of what a target needs; nothing may write into them."""
        for part in target.parts:
            source, _, name = part.partition(">")
            whole = sorted(self.base.glob(source))
            if not whole:
                raise FileNotFoundError(f"{target.name}: {source} is not in the workspace")
            for path in whole:
                to = workspace / (name or path.relative_to(self.base))
                self._link(path, to, source.startswith(REWRITTEN))

    def _link(self, source: Path, target: Path, rewrite: bool) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            target.mkdir(exist_ok=True)
            for inner in source.iterdir():
                self._link(inner, target / inner.name, rewrite)
        elif rewrite and source.suffix in (".json", ".tsv"):
            workspace = next(p for p in target.parents if p.name == "ws")
            content = source.read_bytes()
            here = str(workspace).encode()
            for there in self._homes(source):
                content = content.replace(there, here)
            target.write_bytes(content)
            shutil.copystat(source, target)
        elif not target.exists():
            os.link(source, target, follow_symlinks=False)

    def _homes(self, source: Path) -> list[bytes]:
        """Workspaces that a file was written in, the inner one first."""
        parts = source.relative_to(self.base).parts
        inner = [self.base.joinpath(*parts[:2])] if parts[0] == "interrupted" else []
        return [str(home).encode() for home in (*inner, self.base)]

    def prepare(self, mutant: Mutant) -> None:
        """Copy the target's files and damage one of them."""
        target = mutant.target
        self.link(target, mutant.workspace)
        rng = np.random.default_rng([mutant.seed, zlib.crc32(target.name.encode()), mutant.number])
        groups = [
            found for pattern in target.files if (found := self._files(mutant.workspace, pattern))
        ]
        group = groups[int(rng.integers(len(groups)))]
        path = group[int(rng.integers(len(group)))]
        every = sorted({p for found in groups for p in found} - {path})
        others = tuple(other for other in every if kind_of(other) == kind_of(path))
        before = path.read_bytes()
        mutant.victim = path
        is_list = matches(mutant.relative, target.lists)
        mutant.mutation = mutate(Victim(path, others, is_list), rng)
        try:
            regular = path.is_file() and not path.is_symlink()
            mutant.changed = not regular or path.read_bytes() != before
        except OSError:
            mutant.changed = True
        wants_seal = rng.random() < RESEALED and regular
        mutant.resealed = wants_seal and self._reseal(mutant)
        mutant.before = listing(mutant.workspace)

    def _reseal(self, mutant: Mutant) -> bool:
        """In a child: what is sealed may hang or break its reader."""
        where = (mutant.workspace, mutant.victim)
        ended = process.run(
            lambda: sys.exit(0 if reseal(*where) else 3), mutant.workspace, mutant.records, 20
        )
        return ended.code == 0

    @staticmethod
    def _files(workspace: Path, pattern: str) -> list[Path]:
        return sorted(p for p in workspace.glob(pattern) if p.is_file() and not p.is_symlink())

    def start(self, mutant: Mutant) -> process.Child:
        target = mutant.target
        work = process.command([*target.arguments, "-q"][: None if _can_be_quiet(target) else -1])

        def whole() -> None:
            if target.setup is not None:
                target.setup()
            work()

        return process.start(whole, mutant.workspace, mutant.records, target.seconds)

    def expected(self, target: Target) -> dict[str, str]:
        """Digests of what the undamaged files give, computed once."""
        if target.name not in self._expected:
            plain = Mutant(0, target, -1, self.scratch / f"plain-{target.name}")
            self.link(target, plain.workspace)
            child = self.start(plain)
            while (ended := child.poll()) is None:
                time.sleep(0.005)
            if ended.code != 0 or ended.hung or ended.watched or ended.error:
                raise RuntimeError(f"{target.name}, undamaged: {ended}")
            self._expected[target.name] = digests(plain.workspace, target.outputs)
            if target.outputs and not self._expected[target.name]:
                raise RuntimeError(f"{target.name}: no file matches {target.outputs}")
            forget(plain.folder)
        return self._expected[target.name]

    def failures(self, mutant: Mutant, ended: process.Ended) -> list[Failure]:
        tried = Tried(
            target=mutant.target,
            victim=mutant.relative,
            mutation=mutant.mutation,
            resealed=mutant.resealed,
            changed=mutant.changed,
            ended=ended,
            before=mutant.before,
            after=listing(mutant.workspace),
        )
        found = list(judge(tried))
        if mutant.target.outputs and must_be_equal(tried):
            outputs = digests(mutant.workspace, mutant.target.outputs)
            found += output_changed(tried, self.expected(mutant.target), outputs)
        return found

    # --------------------------------------------------------------------- many mutants

    def run(self, names: Iterator[tuple[int, Target, int]], jobs: int) -> Iterator[tuple]:
        """Yield (mutant, how it ended, failures) as they end."""
        slots: list[tuple[Mutant, process.Child] | None] = [None] * jobs
        is_over = False
        while not is_over or any(slots):
            for place, slot in enumerate(slots):
                if slot is None and not is_over:
                    try:
                        seed, target, number = next(names)
                    except StopIteration:
                        is_over = True
                        continue
                    mutant = Mutant(seed, target, number, self.scratch / f"{place}-{number}")
                    self.prepare(mutant)
                    slots[place] = mutant, self.start(mutant)
                elif slot is not None and (ended := slot[1].poll()) is not None:
                    yield slot[0], ended, self.failures(slot[0], ended)
                    if not self.keep:
                        forget(slot[0].folder)
                    slots[place] = None
            time.sleep(0.005)


def _can_be_quiet(target: Target) -> bool:
    return target.arguments[:2] != ("weights", "card")


def schedule(targets: Sequence[Target], seed: int) -> Iterator[tuple[int, Target, int]]:
    """Targets in turn, each as often as its weight says, for ever."""
    credit = {target.name: 0.0 for target in targets}
    numbers = {target.name: itertools.count() for target in targets}
    while True:
        for target in targets:
            credit[target.name] += target.weight
            while credit[target.name] >= 1:
                credit[target.name] -= 1
                yield seed, target, next(numbers[target.name])


# ------------------------------------------------------------------------------ the summary


@dataclass
class Summary:
    """What was tried, and the failures by kind and place."""

    tried: collections.Counter = field(default_factory=collections.Counter)
    failed: collections.Counter = field(default_factory=collections.Counter)
    codes: collections.Counter = field(default_factory=collections.Counter)
    kinds: dict[tuple[str, str], list[tuple[str, str, str]]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, mutant: Mutant, ended: process.Ended, failures: list[Failure]) -> None:
        name = mutant.target.name
        self.tried[name] += 1
        self.codes["hung" if ended.hung else str(ended.code)] += 1
        self.seconds += ended.seconds
        self.failed[name] += bool(failures)
        for failure in failures:
            example = (mutant.name, describe(mutant), failure.text)
            self.kinds.setdefault((failure.kind, failure.place), []).append(example)

    def text(self) -> str:
        total, failed = sum(self.tried.values()), sum(self.failed.values())
        codes = ", ".join(f"{code}: {n}" for code, n in sorted(self.codes.items()))
        lines = [
            f"{total} mutants, {failed} failed; exit codes {codes}; {self.seconds:.0f} s of "
            "processor time",
            "",
            "by target (tried, failed):",
            *(f"  {name:24} {n:5} {self.failed[name]:5}" for name, n in sorted(self.tried.items())),
        ]
        if self.kinds:
            lines += ["", "failures by kind (mutants):"]
        for (kind, place), examples in sorted(
            self.kinds.items(), key=lambda item: (item[0][0], -len(item[1]))
        ):
            name, what, text = examples[0]
            lines += [
                f"  {len(examples):4}  {kind}: {place}",
                f"        {what}",
                f"        {text[:240]!r}",
                f"        --only {name}",
            ]
        return "\n".join(lines)

    def record(self) -> dict:
        """The same for other programs."""
        return {
            "tried": dict(self.tried),
            "failed": dict(self.failed),
            "codes": dict(self.codes),
            "failures": [
                {"kind": kind, "place": place, "examples": examples}
                for (kind, place), examples in sorted(self.kinds.items())
            ],
        }


def describe(mutant: Mutant) -> str:
    seal = ", sealed again" if mutant.resealed else ""
    what = mutant.mutation.what if mutant.mutation else "undamaged"
    printable = what.encode("ascii", "backslashreplace").decode()
    return f"{mutant.relative}: {printable}{seal}"


def show(mutant: Mutant, ended: process.Ended, failures: list[Failure]) -> None:
    """A mutant in full, with its output."""
    print(f"{mutant.name}\n{describe(mutant)}")
    print(f"synbrain {' '.join(mutant.target.arguments)}")
    print(f"exit code {ended.code} {ended.hung}, {ended.seconds:.1f} s")
    print(ended.output[-3000:], ended.error[-6000:], *ended.watched, sep="\n")
    for failure in failures:
        print(f"FAILED  {failure.kind}: {failure.place}: {failure.text}")


# ------------------------------------------------------------------------------ command line


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutants", type=int, default=3000, help="how many; 0: for ever")
    parser.add_argument("--skip", type=int, default=0, help="so many first, tried before")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="SEED:TARGET:N", help="one mutant, with its output")
    parser.add_argument("--targets", help="patterns of targets' names, as plot-*,import")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--base", type=Path, help="keep the workspace here for the next run")
    parser.add_argument("--keep", action="store_true", help="leave the files of the mutants")
    parser.add_argument("--json", type=Path, help="also write the summary to this file")
    parser.add_argument("--check", action="store_true", help="run every target undamaged, twice")
    parser.add_argument("-v", "--verbose", action="store_true", help="say failures as they come")
    return parser.parse_args()


def chosen(patterns: str | None) -> list[Target]:
    import fnmatch

    found = [
        target
        for target in TARGETS.values()
        if patterns is None or any(fnmatch.fnmatch(target.name, p) for p in patterns.split(","))
    ]
    if not found:
        sys.exit(f"no target is called {patterns}: {', '.join(TARGETS)}")
    return found


def check(fuzzer: Fuzzer, targets: Sequence[Target]) -> int:
    """The undamaged workspace gives the same twice, in different folders."""
    wrong = 0
    for target in targets:
        start = time.monotonic()
        try:
            first = fuzzer.expected(target)
        except RuntimeError as error:
            print(str(error)[:2000])
            wrong += 1
            continue
        del fuzzer._expected[target.name]
        usual, fuzzer.scratch = fuzzer.scratch, fuzzer.scratch / "elsewhere"
        second = fuzzer.expected(target)
        fuzzer.scratch = usual
        differ = [name for name in first if first[name] != second.get(name)]
        wrong += bool(differ)
        took = time.monotonic() - start
        print(f"{target.name:24} {took / 2:5.1f} s  {len(first)} files {differ or ''}", flush=True)
    return wrong


def main() -> int:
    options = parse()
    # A shell that starts it in the background makes it ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        root = (options.base or Path(temporary)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        os.environ["MPLCONFIGDIR"] = str(root / "matplotlib")
        (root / "matplotlib").mkdir(exist_ok=True)
        process.import_everything()
        build(root / "base", lambda text: print(text, file=sys.stderr, flush=True))
        scratch = Path(tempfile.mkdtemp(prefix="mutants-", dir=root))
        try:
            return work(options, Fuzzer(root / "base", scratch, options.keep))
        finally:
            if options.keep:
                print(f"mutants are in {scratch}", file=sys.stderr)
            else:
                forget(scratch)


def work(options: argparse.Namespace, fuzzer: Fuzzer) -> int:
    targets = chosen(options.targets)
    if options.check:
        return int(check(fuzzer, targets) > 0)
    if options.only:
        return repeat(options, fuzzer)
    stop = options.skip + options.mutants if options.mutants else None
    names = itertools.islice(schedule(targets, options.seed), options.skip, stop)
    summary = Summary()
    try:
        for tried in fuzzer.run(names, options.jobs):
            summary.add(*tried)
            follow(summary, *tried, options.verbose)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    print(summary.text(), flush=True)
    if options.json:
        options.json.write_text(json.dumps(summary.record(), indent=1))
    return int(any(summary.failed.values()))


def repeat(options: argparse.Namespace, fuzzer: Fuzzer) -> int:
    """One mutant again, in full."""
    seed, name, number = options.only.split(":")
    ((mutant, ended, failures),) = fuzzer.run(iter([(int(seed), TARGETS[name], int(number))]), 1)
    show(mutant, ended, failures)
    return int(bool(failures))


def follow(
    summary: Summary, mutant: Mutant, ended: process.Ended, failures: list[Failure], verbose: bool
) -> None:
    """Say failures as they come, and how far it is."""
    for failure in failures if verbose else ():
        print(
            f"{mutant.name}  {failure.kind}: {failure.place}  {describe(mutant)}  "
            f"{failure.text[:200]!r}",
            flush=True,
        )
    n = sum(summary.tried.values())
    if n % 100 == 0:
        print(f"{n} mutants, {summary.seconds:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
