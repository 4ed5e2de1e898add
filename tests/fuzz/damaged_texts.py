"""Damage to JSON and to tables, by their structure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from mutations import Damage, Mutation, Rng, Victim, one_of

NUMBERS = (0, -1, 1, 2, 0.5, -0.0, 1e308, -1e308, 1e30, 5e-324, 2**31, 2**63, 2**64, 10**400)
ESCAPES = "\x1b[31m\x1b]0;owned\x07\x9b2J"
STRINGS = (
    *("", " ", "x" * 100_000, ESCAPES, "a\nb\rc\td", "nul\0", "\ud800", "é" * 300, "‮gpj.exe"),
    *("../../../etc/passwd", "/dev/zero", "/etc/passwd", ".", "..", "a/b", "~/x", "-rf", "{0}%s"),
    *("NaN", "1e999", "None", "sub-01", "<script>alert(1)</script>"),
)


# -------------------------------------------------------------------------------------- JSON


def _nodes(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = list(enumerate(value))[:20]
    else:
        items = ()
    for key, inner in items:
        found += _nodes(inner, (*path, key))
    return found


def _set(content: Any, path: tuple, value: Any) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


def _get(content: Any, path: tuple) -> Any:
    for key in path:
        content = content[key]
    return content


def _remove(content: Any, path: tuple) -> None:
    del _get(content, path[:-1])[path[-1]]


def _other_type(value: Any, rng: Rng) -> Any:
    others = [7, 0.25, "text", True, None, [], {}, [1, "a"], {"a": 1}, [[[]]]]
    return one_of(rng, [o for o in others if type(o) is not type(value)])


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def _json_whole(content: Any, text: str, rng: Rng) -> Damage:
    """The whole file instead of a field."""
    key = json.dumps(next(iter(content))) if isinstance(content, dict) and content else '"a"'
    what, changed = one_of(
        rng,
        (
            ("a list instead", "[]"),
            ("text instead", '"text"'),
            ("a number instead", "7"),
            ("null instead", "null"),
            ("an empty object instead", "{}"),
            ("nested 100,000 deep", _nested(100_000)),
            ("a key twice", text.rstrip().rstrip("}") + f",{key}: null}}"),
            ("a byte order mark", "\ufeff" + text),
            ("two documents", text + text),
            ("a comment", "// c\n" + text),
        ),
    )
    return what, changed.encode("utf-8", "surrogatepass"), True


def damage_json(data: bytes, rng: Rng) -> Damage:
    text = data.decode("utf-8")
    content = json.loads(text)
    nodes = _nodes(content)
    if not nodes or rng.random() < 0.1:
        return _json_whole(content, text, rng)
    if rng.random() < 0.05:
        encoding = one_of(rng, ("utf-16", "utf-32", "cp500"))
        return f"in {encoding}", text.encode(encoding), True
    top = [node for node in nodes if len(node) == 1]
    path = one_of(rng, top if rng.random() < 0.4 else nodes)
    old = _get(content, path)
    choice = one_of(rng, ("remove", "null", "type", "type", "number", "text", "text", "nan", "key"))
    tellable = choice in ("null", "type", "nan") and old is not None
    if choice == "remove":
        _remove(content, path)
        what = "removed"
    elif choice == "key":
        name = one_of(rng, STRINGS)
        _get(content, path[:-1]) if len(path) > 1 else content
        holder = _get(content, path[:-1])
        if isinstance(holder, dict):
            holder[name] = old
        else:
            holder.append(old)
        what = f"also as {name[:30]!r}"
    else:
        value = {
            "null": lambda: None,
            "type": lambda: _other_type(old, rng),
            "number": lambda: one_of(rng, NUMBERS),
            "text": lambda: one_of(rng, STRINGS),
            "nan": lambda: one_of(rng, (float("nan"), float("inf"), -float("inf"))),
        }[choice]()
        _set(content, path, value)
        what = f"= {str(value)[:30]!r}"
    where = ".".join(map(str, path))[:80]
    changed = json.dumps(content, indent=2, ensure_ascii=bool(rng.random() < 0.5))
    return f"{where} {what}", changed.encode("utf-8", "replace"), tellable


# ------------------------------------------------------------------------------------ tables


CELLS = (
    *("", "NA", "nan", "inf", "-inf", "1e30", "1e999", "-1", "0", "1.5", "1,5", "0x1", "1_000"),
    *("9" * 400, "9223372036854775808", "True", "x" * 100_000, ESCAPES, "nul\0", "../../secret"),
    *("/etc/passwd", "é", " 1 ", "=1+1", '"', '"unclosed', "a\rb", "\u2028", "test", "sub-01"),
)
_IMPOSSIBLE = ("inf", "-inf", "1e30", "1e999", "9" * 400, '"unclosed', "nul\0")
_NUMERIC = ("session", "repeat", "ncsnr", "trial", "i", "j", "k")


def _cell(rows: list[list[str]], rng: Rng) -> tuple[int, int]:
    row = int(rng.integers(1, len(rows))) if len(rows) > 1 else 0
    return row, int(rng.integers(max(1, len(rows[row]))))


def _damage_cell(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    row, column = _cell(rows, rng)
    value = one_of(rng, CELLS)
    if rng.random() < 0.2:  # a whole column
        for cells in rows[1:]:
            if column < len(cells):
                cells[column] = value
    elif column < len(rows[row]):
        rows[row][column] = value
    name = rows[0][column] if column < len(rows[0]) else ""
    return f"row {row}, {name} = {value[:20]!r}", value in _IMPOSSIBLE and name in _NUMERIC


def _drop_cell(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    row, column = _cell(rows, rng)
    del rows[row][column]
    return f"row {row}: cell {column} dropped", True


def _add_cell(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    row, column = _cell(rows, rng)
    rows[row].insert(column, "more")
    return f"row {row}: a cell more at {column}", True


def _row_names(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    """As R's write.table: one more cell than the header in every row."""
    for number, row in enumerate(rows[1:], start=1):
        row.insert(0, f'"{number}"' if rng.random() < 0.5 else str(number))
    return "row names without a header", True


def _double_header(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    column = int(rng.integers(len(rows[0])))
    for row in rows:
        row.append(row[column] if row is rows[0] else one_of(rng, ("1", "x", "test")))
    return f"column {rows[0][column]} twice", True


def _rename_header(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    column = int(rng.integers(len(rows[0])))
    name = one_of(rng, ("", "x", rows[0][column].upper(), f" {rows[0][column]} ", ESCAPES, "model"))
    what = f"column {rows[0][column]} named {name!r}"
    rows[0][column] = name
    return what, False


def _drop_column(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    column = int(rng.integers(len(rows[0])))
    what = f"column {rows[0][column]} dropped"
    for row in rows:
        del row[column : column + 1]
    return what, False


def _drop_rows(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    n = len(rows)
    keep = one_of(rng, (1, 2, n - 1))
    del rows[keep:]
    return f"{keep} of {n} lines kept", False


def _swap_rows(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    a, b = (int(rng.integers(len(rows))) for _ in range(2))
    rows[a], rows[b] = rows[b], rows[a]
    return f"lines {a} and {b} exchanged", a == 0 or b == 0


def _repeat_row(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    row = int(rng.integers(len(rows)))
    rows.insert(row, list(rows[row]))
    return f"line {row} twice", row == 0


def _blank_line(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    row = int(rng.integers(len(rows) + 1))
    rows.insert(row, [one_of(rng, ("", " ", "# comment"))])
    return f"line {row}: {rows[row][0]!r}", True


ROWS = (
    *(_damage_cell, _damage_cell, _damage_cell, _drop_cell, _add_cell, _row_names),
    *(_double_header, _rename_header, _drop_column, _drop_rows, _swap_rows, _repeat_row),
    _blank_line,
)


def _reencode(text: str, rng: Rng) -> Damage:
    what, changed = one_of(
        rng,
        (
            ("CRLF", text.replace("\n", "\r\n").encode()),
            ("CR alone", text.replace("\n", "\r").encode()),
            ("a byte order mark", b"\xef\xbb\xbf" + text.encode()),
            ("UTF-16", text.encode("utf-16")),
            ("no newline at the end", text.rstrip("\n").encode()),
            ("a Latin-1 letter", text.encode().replace(b"a", b"\xe9", 1)),
            ("semicolons", text.replace("\t", ";").encode()),
            ("spaces", text.replace("\t", "  ").encode()),
            ("a separator at every end", text.replace("\n", "\t\n").encode()),
            ("every cell quoted", re.sub(r"[^\t\n]+", r'"\g<0>"', text).encode()),
            ("without its header", text.partition("\n")[2].encode()),
            ("NUL bytes between", "\0".join(text[:2000]).encode()),
        ),
    )
    return what, changed, what in ("CRLF", "a byte order mark", "no newline at the end", "UTF-16")


def table_mutator(separator: str) -> Callable[[Victim, Rng], Mutation]:
    def damage(victim: Victim, rng: Rng) -> Mutation:
        text = victim.path.read_bytes().decode("utf-8")
        if rng.random() < 0.2:
            what, changed, tellable = _reencode(text, rng)
            victim.rewrite(changed)
            return Mutation(what, tellable)
        rows = [line.split(separator) for line in text.splitlines()] or [[""]]
        mutator = one_of(rng, ROWS)
        what, tellable = mutator(rows, rng)
        tellable &= not (victim.is_list and mutator is _swap_rows)  # no line of a list is a header
        content = "\n".join(separator.join(row) for row in rows) + "\n"
        victim.rewrite(content.encode("utf-8"))
        return Mutation(what, tellable)

    return damage
