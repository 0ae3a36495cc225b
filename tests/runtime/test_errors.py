"""The words of errors: names in a row, and messages that stay one line."""

import signal

import pytest

from modules.runtime.errors import MAX_NAMED, Stopped, UserError, in_one_line, named


def test_the_first_few_names() -> None:
    assert MAX_NAMED == 5
    assert named([]) == ""
    assert named(range(5)) == "0, 1, 2, 3, 4"
    assert named(f"{i}.png" for i in range(8)) == "0.png, 1.png, 2.png, 3.png, 4.png and 3 more"
    # Where only a few of many are given, as of a gap of 10¹⁹ numbers.
    assert named([7, 8], total=12) == "7, 8 and 7 more"
    assert named([7, 8], total=2) == "7, 8"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a.png: is empty", "a.png: is empty"),
        ("two\nlines.png: is empty", "two\\nlines.png: is empty"),
        ("a\r\x1b[31mred\x7f\0", "a\\r\\x1b[31mred\\x7f\\x00"),
        ("舞 é → β", "舞 é → β"),
        # A list of faults keeps its lines; a name with a newline among them does not make one.
        ("2 faults\n  - a\n  - b\nc", "2 faults\n  - a\n  - b\\nc"),
        ("a\n - b", "a\\n - b"),
    ],
)
def test_control_characters_make_no_lines(message: str, line: str) -> None:
    assert in_one_line(message) == line
    assert in_one_line(line) == line


def test_stopped_knows_its_signal() -> None:
    stop = Stopped(signal.SIGTERM)
    assert (str(stop), stop.signal_number) == ("SIGTERM", 15)
    with pytest.raises(ValueError):
        Stopped(12345)
    assert not issubclass(Stopped, UserError)  # it is not a mistake
