"""The headers of Parquet's pages, in Thrift's compact protocol; pyarrow does not show them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class PageHeader(NamedTuple):
    """What the header of a page says, and its own length.

    Attributes:
        length: Bytes of the header.
        kind: The type of the page: 2 is a dictionary.
        nbytes: Bytes of the page once decompressed.
        stored: Bytes of the page in the file.
        values: Number of values, including nulls.
        encoding: How they are encoded.
    """

    length: int
    kind: int
    nbytes: int
    stored: int
    values: int
    encoding: int


class _CutOffError(Exception):
    pass


def page_header(data: memoryview) -> PageHeader | None:
    """Parse the page header at the beginning of `data`; return None if it is not all there.

    Raises:
        ValueError: If it is no page header, or has sizes that no page has.
    """
    reader = _Reader(data)
    try:
        fields = dict(reader.struct(depth=0))
    except _CutOffError:
        return None
    inner: dict[int, Any] = next((fields[number] for number in (5, 7, 8) if isinstance(fields.get(number), dict)), {})
    encoding = inner.get(4 if 8 in fields else 2, 0)
    numbers = [*(fields.get(number) for number in (1, 2, 3)), inner.get(1, 0), encoding]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a page header lacks its sizes, or has negative ones")
    return PageHeader(reader.at, *numbers)


class _Reader:
    """Reads the integers of a struct and of the structs in it; other values are skipped."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.at = 0

    def struct(self, depth: int) -> Iterator[tuple[int, Any]]:
        number = 0
        while (first := self._byte()) != 0:
            kind = first & 15
            number = number + (first >> 4) if first >> 4 else self._integer()
            value = self._value(kind, depth)
            if value is not None:
                yield number, value

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):  # a flag, whose value is its type
            return None
        if kind == 3:
            self.at += 1
        elif kind in (4, 5, 6):
            return self._integer()
        elif kind == 7:
            self.at += 8
        elif kind == 8:
            length = self._varint()
            self.at += length
        elif kind == 12 and depth < 8:
            return dict(self.struct(depth + 1))
        else:
            raise ValueError(f"a page header has a value of the unknown type {kind}")
        return None

    def _byte(self) -> int:
        if self.at >= len(self._data):
            raise _CutOffError
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        found = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            found |= (byte & 127) << shift
            if byte < 128:
                return found
        raise ValueError("a page header has a number of more than 64 bits")

    def _integer(self) -> int:
        found = self._varint()
        return (found >> 1) ^ -(found & 1)
