"""Values out of Arrow, as a Python worker hands them to an encoder: vectors as arrays, no Python float on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from ..datasets.tables.column_types import is_list_type
from ..datasets.tables.scalars import holds_audio, read_scalar
from ..failures import Code, RowError, Stage

Reader = Callable[[pa.Scalar], Any]

_NOT_UTF8 = RowError(
    Stage.READ, Code.MALFORMED, "the string is not valid UTF-8; Spark's make_valid_utf8 replaces what is broken in it"
)


def read_value(scalar: pa.Scalar) -> Any:
    """Return a value of Arrow as a value of Python.

    Args:
        scalar: Of any type. Spark lets a string hold any bytes, and Arrow passes them on.

    Returns:
        The value; a `RowError` in place of a string that is not UTF-8, or of the struct that holds it. Only that
        element of an array is replaced. A sound's samples, in a struct with their rate, come as an array.
    """
    try:
        return read_scalar(scalar)
    except UnicodeDecodeError:
        if isinstance(scalar, pa.ListScalar):
            return [read_value(element) for element in scalar.values]
        return _NOT_UTF8


def plain_reader_of(kind: pa.DataType) -> Reader:
    """Return a reader like `read_value` for values of one type, which it inspects once."""
    if holds_audio(kind) or is_list_type(kind):
        return read_value

    def read(scalar: pa.Scalar) -> Any:
        try:
            return scalar.as_py()
        except UnicodeDecodeError:
            return _NOT_UTF8

    return read


def reader_of(kind: pa.DataType) -> Reader:
    """Return a reader like `read_value` that returns every list of numbers as an array.

    Args:
        kind: Their type. It is inspected once, not for every value.

    Returns:
        A function. Of a struct in which a string is not UTF-8 it makes a `RowError`; a null among numbers becomes a
        NaN, which no vector may hold.
    """
    if holds_audio(kind) or not _holds_numbers(kind):
        return plain_reader_of(kind)
    if not is_list_type(kind):
        return _struct_reader({field.name: reader_of(field.type) for field in kind})
    if is_number(kind.value_type):
        return lambda scalar: scalar.values.to_numpy(zero_copy_only=False) if scalar.is_valid else None
    element_of = reader_of(kind.value_type)
    return lambda scalar: [element_of(element) for element in scalar.values] if scalar.is_valid else None


def _struct_reader(readers: Mapping[str, Reader]) -> Reader:
    def read(scalar: pa.Scalar) -> Any:
        if not scalar.is_valid:
            return None
        fields = {name: read_field(scalar[name]) for name, read_field in readers.items()}
        return next((value for value in fields.values() if isinstance(value, RowError)), fields)

    return read


def _holds_numbers(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_numbers(field.type) for field in kind)
    return is_list_type(kind) and (is_number(kind.value_type) or _holds_numbers(kind.value_type))


def is_number(kind: pa.DataType) -> bool:
    """Return whether a type is a number that vectors can hold."""
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)
