"""Values out of Arrow: a sound's samples as an array, where a Python float each would take ten times their memory."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ...encoders.item import AUDIO_FIELDS, AUDIO_RATES, AUDIO_SAMPLES
from .column_types import is_list_type


def read_scalar(scalar: pa.Scalar) -> Any:
    """Return a value of Arrow as a value of Python; samples in a struct of a sound come as an array of their type.

    Those of two channels come as a list of arrays; with a null among them as a list, as an array has no place for it.

    Raises:
        UnicodeDecodeError: If a string in it is not UTF-8.
    """
    kind = scalar.type
    if not scalar.is_valid or not holds_sound(kind):
        return scalar.as_py()
    if not pa.types.is_struct(kind):
        return [read_scalar(element) for element in scalar.values]
    samples = AUDIO_SAMPLES if _is_sound(kind) else ()
    return {name: (_read_samples if name in samples else read_scalar)(scalar[name]) for name in kind.names}


def holds_sound(kind: pa.DataType) -> bool:
    """Tell whether a type is a struct of samples and their rate, or has one somewhere in it."""
    if pa.types.is_struct(kind):
        return _is_sound(kind) or any(holds_sound(field.type) for field in kind)
    return is_list_type(kind) and holds_sound(kind.value_type)


def _is_sound(struct: pa.StructType) -> bool:
    names = set(struct.names)
    return names <= AUDIO_FIELDS and not names.isdisjoint(AUDIO_SAMPLES) and not names.isdisjoint(AUDIO_RATES)


def _read_samples(scalar: pa.Scalar) -> Any:
    if not scalar.is_valid or not is_list_type(scalar.type):
        return scalar.as_py()
    if is_list_type(scalar.type.value_type):
        return [_read_samples(channel) for channel in scalar.values]
    return scalar.as_py() if scalar.values.null_count else scalar.values.to_numpy(zero_copy_only=False)
