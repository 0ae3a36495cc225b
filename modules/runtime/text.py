"""Text from names of files, which on most systems are bytes in no particular encoding."""

import codecs
import re

# Where a byte of a name is no UTF-8, Python has 0xDC00 + the byte (PEP 383), which cannot be
# encoded; other halves of surrogate pairs come from Windows.
_ODD = re.compile("[\ud800-\udfff]")
ERRORS = "bytes_shown"  # the name of the handler below, as open() and encode() take it


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def shown(text: str) -> str:
    """The text with such bytes written as `\\xe9`, so that it can be printed, drawn and stored."""
    return _ODD.sub(lambda found: _escaped(found[0]), text)


def _handle(error: UnicodeError) -> tuple[str | bytes, int]:
    """Such bytes as `shown` has them; what an encoding lacks as `\\u2026`."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    clear = shown(text).encode(error.encoding, "backslashreplace").decode(error.encoding)
    return clear, error.end


codecs.register_error(ERRORS, _handle)
