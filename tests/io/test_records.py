"""Records in JSON files are read strictly, and faults name the file and the field."""

import msgspec
import pytest

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.records import read_record, write_record


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    weight: float
    sizes: tuple[int, ...] = ()


class Whole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    part: Part
    by_session: dict[int, str] = msgspec.field(name="BySession", default_factory=dict)


def test_what_is_written_is_read_back(tmp_path):
    record = Whole("β", Part(float("inf"), (1, 2)), {3: "x"})
    write_record(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json", Whole) == record
    assert "β" in (tmp_path / "record.json").read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"name": "a"}', "expected the field `part`, found none: make it again"),
        ('{"name": 1, "part": {"weight": 1}}', "expected `str`, found `int` at `$.name`"),
        ('{"name": "a", "part": {"weight": "1"}}', "found `str` at `$.part.weight`"),
        ('{"name": "a", "part": {"weight": 1, "x": 2}}', "found `x` at `$.part`"),
        (
            '{"name": "a", "part": {"weight": 1, "sizes": [1, 2.5]}}',
            "found `float` at `$.part.sizes[1]`",
        ),
        ("[]", "expected `object`, found `array`"),
        ("{", "expected JSON"),
        ('{"name": "\\ud800", "part": {"weight": 1}}', "expected JSON"),
    ],
)
def test_a_fault_names_file_and_field(tmp_path, content, message):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_record(path, Whole)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_escaped_text_is_text(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(r'{"name": "\ud83e\udde0 \u00e9", "part": {"weight": 1}}')
    assert read_record(path, Whole).name == "🧠 é"


def test_an_integer_stands_for_a_float(tmp_path):
    (tmp_path / "record.json").write_text('{"weight": 2}')
    assert read_record(tmp_path / "record.json", Part) == Part(2.0)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(MissingError, match=r"record\.json does not exist"):
        read_record(tmp_path / "record.json", Part)
