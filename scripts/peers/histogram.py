"""Reads HdrHistogram's compressed V2 format, in which loadgen writes its latencies."""

import base64
import struct
import zlib

_COOKIE, _COMPRESSED_COOKIE = 0x1C849303, 0x1C849304
# The low bits of the cookies hold the width of a word, which says nothing in V2.
_COOKIE_MASK = 0xFFFFFF0F


class Histogram:
    """Counts by value."""

    def __init__(self, text):
        packed = base64.b64decode(text)
        cookie, length = struct.unpack_from(">ii", packed)
        if cookie & _COOKIE_MASK != _COMPRESSED_COOKIE & _COOKIE_MASK:
            raise ValueError("this is no compressed HdrHistogram of version 2")
        plain = zlib.decompress(packed[8 : 8 + length])
        cookie, length, _, digits, lowest, _, _ = struct.unpack_from(">iiiiqqd", plain)
        if cookie & _COOKIE_MASK != _COOKIE & _COOKIE_MASK:
            raise ValueError("this is no HdrHistogram of version 2")
        self._unit_bits = max(lowest, 1).bit_length() - 1
        self._half_bits = (2 * 10**digits - 1).bit_length() - 1
        self._counts = []
        index = 0
        for value in _zigzag(plain[40 : 40 + length]):
            if value < 0:
                index -= value
            else:
                if value:
                    self._counts.append((index, value))
                index += 1
        self.total = sum(count for _, count in self._counts)

    def value_at(self, quantile):
        """The value at or below which this share of all values lies."""
        wanted = max(1, round(quantile * self.total))
        seen = 0
        for index, count in self._counts:
            seen += count
            if seen >= wanted:
                return self._highest_equivalent(index)
        return 0

    def _highest_equivalent(self, index):
        half = 1 << self._half_bits
        bucket = (index >> self._half_bits) - 1
        offset = (index & (half - 1)) + half
        if bucket < 0:
            bucket, offset = 0, offset - half
        shift = bucket + self._unit_bits
        return (offset << shift) + (1 << shift) - 1


def _zigzag(data):
    value = shift = 0
    for position, byte in enumerate(data):
        # The ninth byte of a number has all of its eight bits.
        last = shift == 56
        value |= (byte if last else byte & 0x7F) << shift
        if last or byte < 0x80:
            yield (value >> 1) ^ -(value & 1)
            value = shift = 0
        else:
            shift += 7
        if position + 1 == len(data) and shift:
            raise ValueError("the histogram ends within a number")
