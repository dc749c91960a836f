"""Long lists in parts: what comes back, what is held, and what travels."""

from __future__ import annotations

import itertools
import pickle

import fsspec
import pytest

from clipmill.errors import DatasetError
from clipmill.files import list_parts, parted_list
from clipmill.files.folder import Folder
from clipmill.files.parted_list import Chosen, Codec, is_stored, open_stored, parted, store

NUMBERS = Codec(int, int, hint="start again")


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        yield Folder.of(tmp_path)
        return
    url = f"memory://{tmp_path.name}"
    yield Folder.of(url)
    fsspec.filesystem("memory").rm(url, recursive=True)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parted_list, "_PART_ITEMS", 4)
    monkeypatch.setattr(list_parts, "_IN_MEMORY", 10)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 19])
def test_a_list_comes_back(folder, small_parts, count):
    items = [n * n for n in range(count)]
    made = parted(iter(items), NUMBERS)
    there = store(made, folder, "squares", NUMBERS)
    for found in (made, there, open_stored(folder, "squares", NUMBERS), pickle.loads(pickle.dumps(there))):
        assert list(found) == items
        assert [found[n] for n in range(count)] == items
        assert found == items and found == made and len(found) == count
        assert found[1:9:2] == items[1:9:2] and found[-3:] == items[-3:]
        with pytest.raises(IndexError):
            found[count]
    assert len(folder.list("squares")) == -(-count // 4)


def test_parts_are_cut_by_bytes_too(folder, monkeypatch):
    monkeypatch.setattr(parted_list, "_PART_BYTES", 100)
    store(["x" * 60] * 10, folder, "texts", Codec(str, str))
    assert len(folder.list("texts")) == 5


def test_one_list_takes_the_place_of_another(folder, small_parts):
    old = store(range(9), folder, "numbers", NUMBERS)
    sent = pickle.dumps(old)
    new = store(range(50, 55), folder, "numbers", NUMBERS)
    assert list(open_stored(folder, "numbers", NUMBERS)) == list(range(50, 55))
    assert all(name.startswith(f"numbers/{new.id}-") for name in folder.list("numbers"))
    list_parts._starts_of.cache_clear()  # as in another process
    with pytest.raises(DatasetError, match="is gone: the job that this worker was started for has ended"):
        list(pickle.loads(sent))


def test_a_list_is_found_where_it_was_moved_to(folder, small_parts):
    below = Folder(folder.fs, folder.at("next"))
    sent = pickle.dumps(store(range(9), below, "numbers", NUMBERS, moved_to=folder))
    folder.make("numbers")
    for name in list(below.list()):
        folder.write(name, below.read(name))
        below.delete(name)
        list_parts._starts_of.cache_clear()
        assert list(pickle.loads(sent)) == list(range(9))
    assert open_stored(below, "numbers", NUMBERS) is None


def test_only_a_stored_list_travels(small_parts):
    made = parted(range(9), NUMBERS)
    assert not is_stored(made) and not is_stored(Chosen(made, [1])) and not is_stored([1])
    with pytest.raises(TypeError, match="store it in a folder"):
        pickle.dumps(made)


def test_what_travels_does_not_grow_with_the_list(folder):
    sizes = [len(pickle.dumps(store(range(count), folder, "numbers", NUMBERS))) for count in (10, 100_000)]
    assert sizes[0] == sizes[1] < 1000
    half = pickle.dumps(Chosen(store(range(100_000), folder, "numbers", NUMBERS), range(0, 100_000, 2)))
    assert len(half) < 2000 + 100_000 / 8


@pytest.mark.parametrize("positions", [[], [0], [3, 4, 11], list(range(12))])
def test_chosen_items(folder, small_parts, positions):
    there = store(range(100, 112), folder, "numbers", NUMBERS)
    expected = [100 + n for n in positions]
    chosen = Chosen(list(range(12)), positions).of(there)
    assert is_stored(chosen)
    for found in (chosen, pickle.loads(pickle.dumps(chosen))):
        assert list(found) == expected and found == expected
        assert [found[n] for n in range(len(found))] == expected
        assert found[1:] == expected[1:]


def test_a_worker_reads_a_part_once_and_keeps_a_few(folder, small_parts, monkeypatch):
    read = []
    there = store(range(40), folder, "numbers", NUMBERS)
    original = list_parts.Stored.read
    monkeypatch.setattr(list_parts.Stored, "read", lambda self, *given: read.append(given[0]) or original(self, *given))
    parted_list._cache.clear()
    assert [there[n] for n in range(8)] == list(range(8))
    assert read == [0, 1]
    assert [there[n] for n in itertools.chain(range(8, 40), range(4))] == [*range(8, 40), *range(4)]
    assert read == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_chosen_items_are_all_that_is_read(folder, small_parts, monkeypatch):
    """A job that lacks one of many shards does not read the plan of all."""
    decoded = []
    codec = Codec(int, lambda value: decoded.append(value) or value)
    chosen = Chosen(store(range(40), folder, "numbers", codec), [5, 38, 39])
    assert list(chosen) == [5, 38, 39] and decoded == [5, 38, 39]


@pytest.mark.parametrize("starts", ["[1]", "[0, 0]", "[0, 9, 4]", "[]", "[0, 0.5]", "null"])
def test_a_damaged_index_is_said(folder, starts):
    store(range(3), folder, "numbers", NUMBERS)
    folder.write("numbers.json", f'{{"id": "ab", "starts": {starts}}}'.encode())
    with pytest.raises(DatasetError, match=r"numbers\.json is damaged.*start again"):
        open_stored(folder, "numbers", NUMBERS)
