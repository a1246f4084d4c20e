"""Octets held as text, the way the suite's Python 2 source expects them.

In Python 2 a `str` is a row of octets, and the case files rely on it: "\\xce\\xba" is two octets
of payload, indexing yields one octet, and the hex dump takes text. The translation keeps all that
true by reading every file as latin-1, so that a character of a `str` is an octet. This module is
where such text becomes real octets and back. It knows nothing about WebSocket.

    case files (str, a character = an octet)  <-- encode / decode -->  autobahn (bytes)
"""

from autobahn.websocket.utf8validator import Utf8Validator as _Utf8Validator


def encode(text):
    """The octets of `text`; bytes pass through unchanged, since some callers hold them already."""
    return text.encode("latin-1") if isinstance(text, str) else bytes(text)


def decode(octets):
    """Text with one character for each octet."""
    return octets if isinstance(octets, str) else bytes(octets).decode("latin-1")


def b2a_hex(data):
    """Stands in for `binascii.b2a_hex`, which no longer takes or returns text."""
    return encode(data).hex()


hexlify = b2a_hex


def readable(text):
    """`text` for a person: read as UTF-8 where that is what its octets are."""
    return encode(text).decode("utf-8", errors="replace")


class Utf8Validator(_Utf8Validator):
    """The suite's own validator, taking text as above (group 6 calls it while it is imported)."""

    def validate(self, data):
        return _Utf8Validator.validate(self, encode(data))
