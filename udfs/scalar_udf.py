"""Scalar UDFs of Arrow arrays, and pandas UDFs in their place where Spark has none (before 4.1)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, functions
from pyspark.sql import types as T

from ..errors import check_flags

if TYPE_CHECKING:
    import pandas as pd

F: Any = functions  # only partly typed
_HAS_ARROW_UDFS = hasattr(F, "arrow_udf")
_FIELD = "clipmill_argument"
"""A column goes into a pandas UDF within a struct of this field: structs arrive as frames, in which nulls are lost."""


def arrow_udf(function: Callable[..., pa.Array], name: str, result: T.DataType, *, deterministic: bool) -> Any:
    """Return a scalar UDF of a function of Arrow arrays: those in one select share a Python worker.

    (Those of an iterator of arrays don't.) Before Spark 4.1 it is a pandas UDF. Called from SQL, that one gives a
    struct of nulls for a null struct; see `applied` for expressions.
    """
    check_flags(deterministic=deterministic)
    function.__name__ = name
    udf: Any = F.arrow_udf(function, result) if _HAS_ARROW_UDFS else _as_pandas_udf(function, result, result)
    return udf if deterministic else udf.asNondeterministic()


def function_of(udf: Any) -> Callable[..., pa.Array]:
    """Return the function of Arrow arrays behind a UDF of `arrow_udf`."""
    function: Callable[..., pa.Array] = getattr(udf.func, "of_arrow", udf.func)
    return function


def applied(udf: Any, *columns: Column) -> Column:
    """Return the result of a UDF of `arrow_udf` as a column."""
    if _HAS_ARROW_UDFS:
        called: Column = udf(*columns)
        return called
    given = [F.struct(column.alias(_FIELD)) for column in columns]
    is_struct = isinstance(udf.returnType, T.StructType)
    result = T.ArrayType(udf.returnType) if is_struct else udf.returnType  # a null struct is one only in an array
    through = _as_pandas_udf(function_of(udf), udf.returnType, result)
    called = (through if udf.deterministic else through.asNondeterministic())(*given)
    return F.get(called, F.lit(0)) if is_struct else called


def _as_pandas_udf(function: Callable[..., pa.Array], made: T.DataType, result: T.DataType) -> Any:
    """Return a pandas UDF around a function whose results are of the type `made`; `result` may be an array of it."""
    in_array, as_frame = result is not made, isinstance(result, T.StructType)

    def call(*columns: Any, **named: Any) -> Any:
        found = function(*map(_to_arrow, columns), **{name: _to_arrow(column) for name, column in named.items()})
        if in_array:
            offsets = pa.array(np.arange(len(found) + 1, dtype=np.int32))
            found = pa.ListArray.from_arrays(offsets, found)
        return _to_frame(found) if as_frame else _to_series(found)

    call.__name__ = function.__name__
    call.of_arrow = function  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it prefers types of pandas in the signature, which this function has not
        return F.pandas_udf(call, result, F.PandasUDFType.SCALAR)


def _to_arrow(column: pd.Series | pd.DataFrame) -> pa.Array:
    if column.ndim == 1:
        # A NaN in a list of floats is no null. In a column of numbers it is, since that is what pandas makes of one.
        array = pa.array(column.to_numpy(dtype=object), from_pandas=column.dtype != object)
        # Empty lists alone show no type; NumPy's default would be taken for one.
        if pa.types.is_list(array.type) and not len(array.values):
            return pa.array([None if value is None else [] for value in column], pa.list_(pa.null()))
        return array
    if list(column.columns) == [_FIELD]:
        return _to_arrow(column[_FIELD])
    fields = [_to_arrow(column[name]) for name in column.columns]
    is_null = pa.array(column.isnull().all(axis=1).to_numpy())
    return pa.StructArray.from_arrays(fields, [str(name) for name in column.columns], mask=is_null)


def _to_frame(array: pa.StructArray) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {field.name: _to_series(values) for field, values in zip(array.type, array.flatten(), strict=True)}
    )


def _to_series(array: pa.Array) -> pd.Series:
    """Return a series that Spark makes this array of again."""
    import pandas as pd

    kind = array.type
    if not pa.types.is_nested(kind):
        return pd.Series(pd.arrays.ArrowExtensionArray(array))  # in which a NaN is no null
    if not (pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)):
        return pd.Series(array.to_pylist(), dtype=object)
    values, offsets = array.values.to_numpy(zero_copy_only=False), array.offsets.to_numpy()
    is_null = array.is_null().to_numpy(zero_copy_only=False)
    vectors = (
        None if null else values[start:stop].tolist()
        for null, start, stop in zip(is_null, offsets[:-1], offsets[1:], strict=True)
    )
    return pd.Series(list(vectors), dtype=object)
