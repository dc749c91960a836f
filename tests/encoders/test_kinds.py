"""Items from values of Spark, of joins and of untrusted JSON lines."""

from __future__ import annotations

import pytest

from clipmill.encoders.item import item_of_value
from clipmill.encoders.plans.kinds import item_of_kind

IMAGE = {"origin": None, "height": 1, "width": 1, "nChannels": 3, "mode": 16, "data": b"\1\2\3"}


@pytest.mark.parametrize("of", [lambda value: item_of_value("image", value), lambda value: item_of_kind("auto", value)])
def test_spark_images_with_null_fields(of) -> None:
    """If all are null, as after an outer join, the image is null. If some are, it fails."""
    assert of(IMAGE).content.tolist() == [[[3, 2, 1]]]
    null = of(dict.fromkeys(IMAGE))
    assert (null.content, null.failure) == (None, None)
    broken = of({**IMAGE, "data": None})
    assert "data is null" in str(broken.failure)


@pytest.mark.parametrize("value", [5, 2.5, True, [1.0, 2.0], ("a", "b", "c")])
def test_kind_auto_refuses_numbers_and_lists(value: object) -> None:
    """The message does not mention images, since none was requested."""
    failed = item_of_kind("auto", value)
    assert f"got {type(value).__name__}; precomputed vectors are of kind 'vector'" in str(failed.failure)


@pytest.mark.parametrize("kind", ["auto", "vector"])
def test_integers_beyond_the_range_of_floats(kind) -> None:
    value = [10**400, 1] if kind == "vector" else {"embedding": [10**400, 1]}
    assert "a vector is a flat list of numbers" in str(item_of_kind(kind, value).failure)
