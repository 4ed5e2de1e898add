r"""Text from files and from users, made safe to print.

>>> printable("red: \x1b[31m")
'red: \\x1b[31m'
"""

from __future__ import annotations

import re

# Control characters (terminals act on them), separators of lines, characters that turn the
# direction of the text, and halves of file names that are not text. Newline and tab are layout.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_LAYOUT = re.compile("[\n\t]")


def printable(text: str) -> str:
    """Return text with what a terminal would act on shown as escapes; newlines and tabs stay."""
    return _HIDDEN.sub(_escape, text)


def one_line(text: str) -> str:
    """Return text as `printable` does, newlines and tabs shown as escapes, too."""
    return _LAYOUT.sub(_escape, printable(text))


def shortened(text: str, longest: int = 1200) -> str:
    """Return text with its middle left out where it is long: what a library quotes of a file.

    >>> shortened("found [1, 1, 1, 1, 1, 1, 1, 1]: copy it again", 40)
    'found [1, 1, 1, 1,  …  1]: copy it again'
    """
    if len(text) <= longest:
        return text
    end = longest // 2 - 2
    return f"{text[: longest - end - 3]} … {text[-end:]}"


def duration(seconds: float) -> str:
    """Return a time as people say it, rounded to what matters.

    >>> duration(42.4), duration(95), duration(17_000)
    ('42 s', '1 min 35 s', '4 h 43 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def is_text(text: str) -> bool:
    """Return whether text can be written in UTF-8: not so where a file's name could not be read."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
