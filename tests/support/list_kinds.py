"""Every kind of list that Arrow has, as what makes its type from the type of its elements; lists have two of these."""

from __future__ import annotations

import pyarrow as pa
import pytest

LIST_KINDS = {
    "list": pa.list_,
    "large_list": pa.large_list,
    "fixed_size_list": lambda kind: pa.list_(kind, 2),
    "list_view": pa.list_view,
    "large_list_view": pa.large_list_view,
}
every_list = pytest.mark.parametrize("list_of", LIST_KINDS.values(), ids=LIST_KINDS)
