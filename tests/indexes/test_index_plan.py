"""Which index is planned for how many rows, how long, in how much memory, and what is said of it."""

from __future__ import annotations

import pytest

from clipmill.errors import SpecError
from clipmill.indexes.plan import plan_factory, plan_index
from clipmill.indexes.sizes import bytes_of

GB = 10**9


@pytest.mark.parametrize(
    ("rows", "dim", "memory", "kind", "factory"),
    [
        (1, 512, 2 * GB, "exact", "Flat"),
        (32_768, 512, 2 * GB, "exact", "Flat"),
        (32_769, 512, 2 * GB, "hnsw", "HNSW32,SQ8"),
        (200_000, 512, 2 * GB, "hnsw", "HNSW32,SQ8"),
        (200_001, 512, 2 * GB, "ivf", "IVF896,SQ8"),
        (1_000_000, 512, 2 * GB, "ivf", "IVF2000,SQ8"),
        (10_000_000, 512, 2 * GB, "ivfpq", "OPQ128_512,IVF5996,PQ128"),
        (10_000_000, 512, 8 * GB, "ivf", "IVF6328,SQ8"),
        (100_000_000, 512, 8 * GB, "ivfpq", "OPQ64_512,IVF20000_HNSW32,PQ64"),
    ],
)
def test_the_kind_follows_rows_dimension_and_memory(rows, dim, memory, kind, factory):
    plan = plan_index(rows, dim, memory)
    assert (plan.kind, plan.factory) == (kind, factory)


def test_a_graph_that_does_not_fit_gives_way_to_lists():
    assert plan_index(150_000, 512, 2 * GB).kind == "hnsw"
    assert plan_index(150_000, 512, 400 * 10**6).kind in ("ivf", "ivfpq")


def test_estimates_stay_within_the_memory_that_is_allowed():
    for rows in (10**4, 10**5, 10**6, 10**7):
        for memory in (512 * 10**6, 2 * GB, 8 * GB):
            plan = plan_index(rows, 512, memory)
            assert plan.build_bytes <= memory
            assert plan.search_bytes <= memory


def test_sizes_are_those_of_codes_ids_and_vectors():
    plan = plan_index(1_000_000, 512, 2 * GB)
    assert plan.vectors_bytes == 1_000_000 * 512 * 4
    assert 1_000_000 * 520 < plan.index_bytes < 1_000_000 * 520 * 1.05
    assert plan_index(1_000_000, 512, 2 * GB, dtype="float16").vectors_bytes == 1_000_000 * 512 * 2


def test_little_memory_means_fewer_lists_and_says_so():
    plan = plan_index(10_000_000, 512, 350 * 10**6)
    assert plan.lists < 6328
    assert any("lists instead of 6,328" in reason for reason in plan.reasons)
    assert any("read from the disk" in reason for reason in plan.reasons)


def test_the_plan_prints_reasons_and_sizes():
    lines = plan_index(1_000_000, 512, 2 * GB).lines()
    assert lines[0] == "ivf (IVF2000,SQ8): 1,000,000 rows of 512 values"
    assert any("lists with a byte for each value take 5" in line and "which fits" in line for line in lines)
    assert lines[-1].startswith("estimated: index 52")
    assert "up to the 2.0 GB that are allowed" in lines[-1]


@pytest.mark.parametrize(
    ("rows", "dim", "memory", "message"),
    [
        (0, 512, 2 * GB, "0 rows of 512 values"),
        (10, 0, 2 * GB, "10 rows of 0 values"),
        (1_000_000, 512, 10**8, "max_memory 100.0 MB is not enough"),
    ],
)
def test_what_no_index_can_be_made_of_is_refused(rows, dim, memory, message):
    with pytest.raises(SpecError, match=message):
        plan_index(rows, dim, memory)


def test_a_factory_string_is_looked_at():
    plan = plan_factory(100_000, 64, "OPQ16_64,IVF256_HNSW32,PQ16")
    assert (plan.kind, plan.lists, plan.code_bytes) == ("custom", 256, 16)
    assert plan.train_rows == 256 * 40
    assert plan_factory(100_000, 64, "Flat").kind == "exact"


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("Foo7", "could not parse index string Foo7"),
        ("PQ7", "should be a multiple of the number of subquantizers"),
        ("IVF64,SQ8,RFlat", "leave IDMap, RFlat and Refine out"),
        ("HNSW32,Flat", "takes some"),
    ],
)
def test_a_factory_string_that_cannot_work_is_refused(factory, message):
    with pytest.raises(SpecError, match=message):
        plan_factory(10_000_000, 64, factory, GB)


@pytest.mark.parametrize("factory", ["Flat", "SQ8", "IVF16,SQ8"])
def test_a_factory_string_needs_the_memory_that_every_process_takes(factory):
    with pytest.raises(SpecError, match=r"max_memory 200\.0 MB is not enough"):
        plan_factory(1000, 16, factory, 200 * 10**6)


def test_codes_that_one_process_adds_are_counted_and_those_put_together_from_parts_are_not():
    rows, memory = 20_000_000, GB
    merged = plan_factory(rows, 64, "IVF1024,PQ64x8", memory)
    assert merged.index_bytes > memory > merged.build_bytes
    with pytest.raises(SpecError, match=r"IVF1024,PQ64x4fs.* takes some 1\.6"):  # 32 bytes and an id, and room to grow
        plan_factory(rows, 64, "IVF1024,PQ64x4fs", memory)
    packed = plan_factory(rows // 4, 64, "IVF1024,PQ64x4fs", memory)
    assert packed.build_bytes > plan_index(1, 64, memory).build_bytes + rows // 4 * (32 + 8)


def test_a_plan_says_whether_it_was_asked_for():
    assert plan_factory(1000, 16, "Flat").asked
    assert plan_factory(1000, 16, "IVF16,SQ8").asked
    assert not plan_index(1000, 16).asked


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GB", 2 * GB), ("512 MiB", 512 * 2**20), ("1.5gb", 1_500_000_000), ("2000000000", 2 * GB), ("1TB", 10**12)],
)
def test_sizes_are_read(text, count):
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["", "GB", "2 bananas", "-1GB", "1e9"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(SpecError, match="is not a size; give one such as 2GB"):
        bytes_of(text)
