"""Codes of one scan as a small file: an arithmetic coder with a fixed model of their bits.

A file `NAME.bvq` is 8 bytes, "BVQ1" and a little-endian CRC-32 that names the model, and the codes.
Each code is a few binary decisions, in the order of the array (last axis fastest): is the value 0;
if not, its sign, and as long as it goes on, is it larger still. The probabilities come from tables
that encoder and decoder share, in whole numbers of 1/65,536, so that no rounding tells two machines
apart. The coder is that of LZMA (Martin 1979, "Range encoding") with a range of 48 bits.
"""

import zlib

import numpy as np

from brainvq.errors import UserError

MAGIC = b"BVQ1"
HEADER = 8
_SHARE = 65536
_TOP, _LEAST = 1 << 48, 1 << 40


def model_key(*tables):
    """CRC-32 of the tables of a model, an int: a file is decoded by the model that wrote it."""
    key = 0
    for table in tables:
        key = zlib.crc32(np.ascontiguousarray(table, "<i4").tobytes(), key)
    return key


def pack_codes(codes, zero, more):
    """A scan's codes as bytes.

    Args:
        codes: int array of values around 0: codes less the one in the middle.
        zero: int array of the same shape: how probable 0 is, of 65,536, which itself stands for
            places that are always 0.
        more: int array: how probable it is that a value of size n ≥ 1 is larger still.

    Returns:
        Bytes: header and payload.

    Raises:
        ValueError: a place that is always 0 holds another value.
    """
    values, zeros, mores = (np.asarray(a).ravel() for a in (codes, zero, more))
    coded = zeros < _SHARE
    if values[~coded].any():
        raise ValueError("Places that are always 0 must hold 0. Received: other values")
    coder = _Encoder()
    lists = [each[coded].tolist() for each in (values, zeros, mores)]
    for value, at_zero, larger in zip(*lists, strict=True):
        coder.put(value != 0, at_zero)
        if value:
            coder.put(value < 0, _SHARE // 2)
            for _ in range(abs(value) - 1):
                coder.put(False, larger)
            coder.put(True, larger)
    return MAGIC + model_key(zero, more).to_bytes(4, "little") + coder.finished()


def unpack_codes(content, zero, more, most, name="codes"):
    """The codes that `pack_codes` wrote.

    Args:
        content: bytes.
        zero: see `pack_codes`.
        more: see `pack_codes`.
        most: int, the largest size of a value.
        name: str, the file's name, for messages.

    Returns:
        int32 array of the shape of `zero`.

    Raises:
        UserError: the bytes are no codes, are cut short or spoilt, or are of another model.
    """
    if content[:4] != MAGIC or len(content) < HEADER:
        raise UserError(f"{name}: found no packed codes; expected a file that begins with BVQ1")
    key, own = int.from_bytes(content[4:HEADER], "little"), model_key(zero, more)
    if key != own:
        raise UserError(
            f"{name}: found codes of model {key:08x}; expected those of this one, {own:08x}"
        )
    zeros, mores = np.asarray(zero).ravel(), np.asarray(more).ravel()
    places = np.flatnonzero(zeros < _SHARE)
    values = np.zeros(zeros.size, "int32")
    coder = _Decoder(content[HEADER:])
    found = zip(places.tolist(), zeros[places].tolist(), mores[places].tolist(), strict=True)
    for place, at_zero, larger in found:
        if not coder.get(at_zero):
            continue
        negative, size = coder.get(_SHARE // 2), 1
        while not coder.get(larger):
            size += 1
            if size > most:
                raise UserError(f"{name}: is spoilt; expected values of at most {most}")
        values[place] = -size if negative else size
    # The encoder wrote what the decoder read, and no more.
    if not coder.is_at_end:
        raise UserError(f"{name}: found {len(content)} bytes; expected as many as its codes take")
    return values.reshape(np.shape(zero))


class _Encoder:
    """Binary decisions to bytes; the first of two outcomes has a probability of p / 65,536."""

    def __init__(self):
        self.low, self.range, self.bytes = 0, _TOP, bytearray()

    def put(self, second, probability):
        bound = (self.range >> 16) * probability
        if second:
            self.low += bound
            self.range -= bound
        else:
            self.range = bound
        while self.range <= _LEAST:
            self._shift()

    def _shift(self):
        """Moves the highest byte out; a carry goes into those that are out already."""
        if self.low >= _TOP:
            self.low -= _TOP
            place = len(self.bytes) - 1
            while self.bytes[place] == 255:
                self.bytes[place] = 0
                place -= 1
            self.bytes[place] += 1
        self.bytes.append(self.low >> 40)
        self.low = (self.low & (_LEAST - 1)) << 8
        self.range <<= 8

    def finished(self):
        """All bytes; what the decoder reads beyond the end is 0."""
        # The shortest number in the range that is left: with as many zeros behind as fit.
        for bits in range(47, -1, -1):
            end = ((self.low + (1 << bits) - 1) >> bits) << bits
            if end < self.low + self.range:
                break
        self.low = end
        for _ in range(6):
            self._shift()
        if self.low:  # a carry of the last byte
            self._shift()
        return bytes(self.bytes).rstrip(b"\0")


class _Decoder:
    """Bytes back to the decisions of `_Encoder`."""

    def __init__(self, content):
        self.content, self.place, self.range = content, 6, _TOP
        self.code = int.from_bytes(content[:6].ljust(6, b"\0"), "big")

    def get(self, probability):
        bound = (self.range >> 16) * probability
        second = self.code >= bound
        if second:
            self.code -= bound
            self.range -= bound
        else:
            self.range = bound
        while self.range <= _LEAST:
            byte = self.content[self.place] if self.place < len(self.content) else 0
            self.code = (self.code << 8) | byte
            self.range <<= 8
            self.place += 1
        return second

    @property
    def is_at_end(self):
        """Whether no byte is left, and what is left of the last decision fits its range."""
        return self.place >= len(self.content) and self.code < self.range
