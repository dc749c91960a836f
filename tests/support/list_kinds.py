"""Every kind of list that Arrow has, as what makes its type from the type of its elements; lists have two of these."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

LIST_KINDS = {
    "list": pa.list_,
    "large_list": pa.large_list,
    "fixed_size_list": lambda kind: pa.list_(kind, 2),
    "list_view": pa.list_view,
    "large_list_view": pa.large_list_view,
}
try:
    pq.write_table(pa.table({"views": pa.array([], pa.list_view(pa.int8()))}), pa.BufferOutputStream())
except pa.ArrowNotImplementedError:  # pyarrow 16 can make views, and neither write them nor count their elements
    LIST_KINDS = {name: kind for name, kind in LIST_KINDS.items() if "view" not in name}
every_list = pytest.mark.parametrize("list_of", LIST_KINDS.values(), ids=LIST_KINDS)
