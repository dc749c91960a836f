"""Broken CSV: each record loses only its first line, and no line is read over and over."""

from __future__ import annotations

import collections
import csv
import io
import random

import pytest

from clipmill.datasets.inputs import lines as lines_module
from clipmill.datasets.inputs.lines import csv_records


def naive(content: bytes) -> list[tuple[int, list[str] | None, str]]:
    """Return number, fields and problem of each record, every record read from its own first line on."""
    found, lines, at = [], content.splitlines(keepends=True), 0
    while at < len(lines):
        taken: list[str] = []

        def feed(start: int = at, taken: list[str] = taken):
            for line in lines[start:]:
                taken.append(line.decode())
                yield taken[-1]

        try:
            fields, problem = next(csv.reader(feed(), strict=True)), ""
        except csv.Error as err:
            fields, problem = None, "a quote is not closed" if "unexpected end" in str(err) else str(err)
        found.append((at + 1, fields, problem))
        at += len(taken) if fields is not None else 1
    return found


def read(content: bytes) -> list[tuple[int, list[str] | None, str]]:
    return [(one.line, one.value, one.problem) for one in csv_records(io.BytesIO(content), ",")]


def test_records_are_those_of_reading_each_from_its_own_line() -> None:
    rng = random.Random(5)
    pieces = ["a", "b", ",", '"', '"', '""', "\n", "\n", 'x","y', '"x"', '"m\nn"', 'a","']
    for _ in range(3000):
        content = "".join(rng.choices(pieces, k=rng.randint(1, 40))).encode()
        assert read(content) == naive(content), content


@pytest.mark.parametrize(
    "line", [b'a","\n', b'a,"b\n', b'"a"x,"\n', b'"\n', b'a","b"c\n'], ids=lambda line: line.decode().strip()
)
def test_no_line_is_read_more_than_twice(monkeypatch, line: bytes) -> None:
    reads: collections.Counter[int] = collections.Counter()
    usual = lines_module._text

    def counted(one: lines_module._Line) -> str:
        reads[one.number] += 1
        return usual(one)

    monkeypatch.setattr(lines_module, "_text", counted)
    records = read(b"text,b\n" + line * 5000)
    assert max(reads.values()) <= 2
    assert records[0] == (1, ["text", "b"], "") and len(records) > 1
