"""`push_dataset`: what a database holds afterwards, and what a second push writes; the same for all databases."""

from __future__ import annotations

import importlib
import itertools
import json
import random
import runpy
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run
from index_helpers import DIM, SPEC, clustered, write_dataset
from places import ROOT
from postgres_server import running
from push_kills import kill_pushes
from store_targets import LanceDb, Milvus, Postgres, Qdrant

from clipmill.encoders import EncoderSpec
from clipmill.errors import DatasetError, MissingExtraError, SpecError
from clipmill.indexes import Pushed, push_dataset
from clipmill.indexes.stores.collection import Description
from clipmill.indexes.stores.qdrant import point_id
from clipmill.indexes.stores.target import MODULES, Target

_NUMBERS = itertools.count()
ROWS = 20


@pytest.fixture(scope="module")
def server():
    with running() as started:
        yield started


@pytest.fixture(params=["postgresql", "qdrant", "milvus", "lancedb"])
def store(request, tmp_path):
    if request.param == "postgresql":
        return Postgres(request.getfixturevalue("server"), f"test{next(_NUMBERS)}")
    return {"qdrant": Qdrant, "milvus": Milvus, "lancedb": LanceDb}[request.param](tmp_path)


@pytest.fixture
def postgres(server):
    return Postgres(server, f"test{next(_NUMBERS)}")


def class_of(store):
    scheme = store.url.partition(":")[0]
    module = importlib.import_module(f"clipmill.indexes.stores.{MODULES[scheme]}")
    return next(value for name, value in vars(module).items() if name.endswith("Store"))


def described(store, name: str) -> Description:
    target = Target.of(store.url)
    module = importlib.import_module(f"clipmill.indexes.stores.{MODULES[target.scheme]}")
    connected = module.connect(target)
    try:
        return connected.describe(name)
    finally:
        connected.close()


def vectors_of(rows: int = ROWS, seed: int = 0) -> list[np.ndarray | None]:
    return list(clustered(rows, seed=seed))


def check(held, vectors, first: int = 0) -> None:
    expected = {f"r{first + number}": one for number, one in enumerate(vectors) if one is not None}
    assert set(held) == set(expected)
    for key, vector in expected.items():
        np.testing.assert_array_equal(held[key][0], vector)
        number = int(key[1:])
        assert held[key][1] == {"uri": f"/photos/{key}.jpg", "number": number}


def test_rows_their_provenance_and_a_second_push(store, tmp_path):
    vectors = vectors_of()
    vectors[3] = None
    vectors[7] = np.full(DIM, np.nan, np.float32)
    folder = str(write_dataset(tmp_path / "photos", vectors))
    assert push_dataset(folder, store.url, batch_rows=4) == Pushed("photos", True, ROWS - 2, 0, 1, 1)
    vectors[7] = None
    check(store.held("photos"), vectors)
    found = described(store, "photos")
    assert found.dim == DIM and found.provenance["model"] == SPEC.model
    assert push_dataset(folder, store.url) == Pushed("photos", False, 0, ROWS, 0, 0)
    again = push_dataset(folder, store.url, again=True)
    assert (again.rows, again.there) == (ROWS - 2, 0)
    check(store.held("photos"), vectors)


def test_a_push_that_ended_early_is_continued(store, tmp_path, monkeypatch):
    """Nothing is lost, and parts that are there are not written again."""
    vectors = vectors_of()
    folder = str(write_dataset(tmp_path / "photos", vectors, parts=4))
    kind = class_of(store)
    whole, calls = kind.upsert, itertools.count()

    def failing(self, rows, parts):
        if next(calls) == 4:
            raise ConnectionError("gone")
        whole(self, rows, parts)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "upsert", failing)
        with pytest.raises(ConnectionError):
            push_dataset(folder, store.url, batch_rows=3)
    assert 0 < len(store.held("photos")) < ROWS
    found = push_dataset(folder, store.url, batch_rows=3)
    assert 0 < found.there < ROWS and found.there % 5 == 0
    assert found.rows == ROWS - found.there
    check(store.held("photos"), vectors)


def test_a_file_that_was_written_anew_takes_the_place_of_its_rows(store, tmp_path):
    vectors = vectors_of()
    folder = write_dataset(tmp_path / "photos", vectors, parts=4)
    push_dataset(str(folder), store.url)
    other = vectors_of(5, seed=3)
    renewed = write_dataset(tmp_path / "other", other, parts=1, first=5)
    (renewed / "part-00.parquet").replace(folder / "part-01.parquet")
    assert push_dataset(str(folder), store.url).rows == 5
    check(store.held("photos"), [*vectors[:5], *other, *vectors[10:]])


def test_a_collection_that_was_deleted_is_filled_again(store, tmp_path):
    vectors = vectors_of()
    folder = str(write_dataset(tmp_path / "photos", vectors))
    push_dataset(folder, store.url)
    store.drop("photos")
    assert push_dataset(folder, store.url).rows == ROWS
    check(store.held("photos"), vectors)


def test_two_datasets_of_one_model_share_a_collection(store, tmp_path):
    vectors = vectors_of()
    for first in (0, 10):
        folder = write_dataset(tmp_path / f"of{first}", vectors[first : first + 10], first=first)
        assert push_dataset(str(folder), store.url, collection="all_photos").rows == 10
    check(store.held("all_photos"), vectors)


@pytest.mark.parametrize(
    ("spec", "dim"),
    [(EncoderSpec("fake::dim=8"), 8), (EncoderSpec(SPEC.model, normalize=True), DIM), (None, DIM)],
    ids=["dimension", "normalize", "none"],
)
def test_vectors_of_another_model_are_refused(store, tmp_path, spec, dim):
    vectors = vectors_of()
    push_dataset(str(write_dataset(tmp_path / "photos", vectors)), store.url)
    other = write_dataset(tmp_path / "other" / "photos", list(clustered(4, dim)), spec=spec)
    with pytest.raises(DatasetError) as raised:
        push_dataset(str(other), store.url)
    assert raised.value.hint
    check(store.held("photos"), vectors)


def test_a_collection_that_another_program_made_is_refused(store, tmp_path):
    store.make_foreign("photos")
    with pytest.raises(DatasetError, match="not made by clipmill"):
        push_dataset(str(write_dataset(tmp_path / "photos", vectors_of())), store.url)


def test_integers_as_ids(store, tmp_path):
    vectors = vectors_of(4)
    table = pa.table({"key": pa.array([3, 1, 2**40, 0], pa.int64()), "embedding": vectors, "number": [0, 1, 2, 3]})
    pq.write_table(table, tmp_path / "keys.parquet")
    found = push_dataset(str(tmp_path / "keys.parquet"), store.url, id_column="key")
    assert (found.collection, found.rows) == ("keys", 4)
    assert described(store, "keys").ids == "integer" and described(store, "keys").provenance is None
    table = table.set_column(0, "key", pa.array(["3", "1", "2", "0"]))
    pq.write_table(table, tmp_path / "keys.parquet")
    with pytest.raises(DatasetError, match="integer"):
        push_dataset(str(tmp_path / "keys.parquet"), store.url, id_column="key")


def test_integers_that_no_column_of_a_database_holds(tmp_path):
    table = pa.table({"id": pa.array([1, 2**63], pa.uint64()), "embedding": vectors_of(2), "number": [0, 1]})
    pq.write_table(table, tmp_path / "keys.parquet")
    with pytest.raises(DatasetError, match=str(2**63)):
        push_dataset(str(tmp_path / "keys.parquet"), f"lancedb://{tmp_path}/db")
    assert not (tmp_path / "db").exists()


def test_a_client_does_not_print_what_is_no_fault(tmp_path, capfd, caplog):
    """Milvus Lite's server logs tracebacks of calls that it need not answer, and Lance, that it replaced nothing."""
    folder = str(write_dataset(tmp_path / "photos", vectors_of(3)))
    push_dataset(folder, f"milvus://{tmp_path}/milvus.db")
    push_dataset(folder, f"lancedb://{tmp_path}/db")
    assert not [record for record in caplog.records if record.exc_info]
    assert "WARN" not in capfd.readouterr().err


def test_pushes_that_are_killed(server, tmp_path):
    """The soak `kills-push` is the long version, with all databases."""
    stores = ("lancedb", "postgresql")
    done = kill_pushes(random.Random(3), tmp_path, kills=4, stores=stores, rows=48, most=2, server=server)
    assert done["killed"] == 4 and done["rows"] == 48 * done["collections"]


def test_a_vector_of_another_size(store, tmp_path):
    vectors = vectors_of()
    vectors[12] = np.ones(DIM + 1, np.float32)
    folder = write_dataset(tmp_path / "photos", vectors, spec=None)
    with pytest.raises(DatasetError, match=rf"{DIM + 1} values"):
        push_dataset(str(folder), store.url)


def test_texts_of_any_kind_arrive(store, tmp_path):
    texts = ["", "'\"\\ \\N \t\n,;{}", "日本 é 😀", "\\u0000", "%s :name ?"]
    keys = ["'", '"; drop', "é,\n", "\\N", ":a"]
    table = pa.table({"id": keys, "embedding": vectors_of(5), "caption": texts, "number": range(5)})
    pq.write_table(table, tmp_path / "odd.parquet")
    push_dataset(str(tmp_path / "odd.parquet"), store.url)
    held = store.held("odd")
    assert {key: row["caption"] for key, (_, row) in held.items()} == dict(zip(keys, texts, strict=True))


def test_a_column_that_changes_its_type_may_be_dropped(tmp_path):
    folder, url = write_dataset(tmp_path / "photos", vectors_of()), f"lancedb://{tmp_path}/db"
    file = folder / "part-01.parquet"
    table = pq.read_table(file)
    texts = pa.array(["x"] * len(table))
    pq.write_table(table.set_column(table.schema.get_field_index("number"), "number", texts), file)
    with pytest.raises(DatasetError, match="drop"):
        push_dataset(folder, url)
    assert push_dataset(folder, url, drop=["number"]).rows == ROWS


@pytest.mark.parametrize(
    "options",
    [{"to": 5}, {"collection": 5}, {"id_column": None}, {"drop": "uri"}, {"again": "no"}, {"batch_rows": "5"}],
)
def test_options_of_wrong_types(options, tmp_path):
    with pytest.raises(SpecError) as raised:
        push_dataset(write_dataset(tmp_path / "photos", vectors_of(3)), **{"to": f"lancedb://{tmp_path}/db", **options})
    assert raised.value.option == next(iter(options))


def test_columns_that_are_dropped_do_not_arrive(store, tmp_path):
    folder = str(write_dataset(tmp_path / "photos", vectors_of()))
    push_dataset(folder, store.url, drop=["uri"])
    assert all(row == {"number": int(key[1:])} for key, (_, row) in store.held("photos").items())
    with pytest.raises(SpecError, match="no column"):
        push_dataset(folder, store.url, drop=["url"])


def test_a_part_and_its_rows_are_one_transaction(postgres, tmp_path, monkeypatch):
    """The rows are written, and then remembering the part fails: neither is there."""
    kind = class_of(postgres)
    whole = kind.upsert
    monkeypatch.setattr(kind, "upsert", lambda self, rows, parts: whole(self, rows, ["no uuid"] if parts else []))
    folder = str(write_dataset(tmp_path / "photos", vectors_of()))
    with pytest.raises(DatasetError):
        push_dataset(folder, postgres.url)
    assert postgres.held("photos") == {}


def test_nul_characters_are_refused_for_postgresql_by_name(postgres, tmp_path):
    table = pa.table({"id": ["a", "b"], "embedding": vectors_of(2), "caption": ["x", "a\0b"]})
    pq.write_table(table, tmp_path / "odd.parquet")
    with pytest.raises(DatasetError, match="'b'"):
        push_dataset(str(tmp_path / "odd.parquet"), postgres.url)
    assert push_dataset(str(tmp_path / "odd.parquet"), postgres.url, drop=["caption"]).rows == 2


def test_nearest_rows_by_sql(postgres, tmp_path):
    vectors = vectors_of()
    push_dataset(str(write_dataset(tmp_path / "photos", vectors)), postgres.url)
    order = f"SELECT id FROM photos ORDER BY embedding <=> '{vectors[11].tolist()}' LIMIT 1"
    assert postgres.run(order) == [["r11"]]
    assert json.loads(postgres.run("SELECT obj_description('photos'::regclass)")[0][0])["dim"] == DIM


def test_a_released_collection_of_milvus_is_loaded(tmp_path):
    """As all are when a new process opens the file of Milvus Lite; they answer no query then."""
    store = Milvus(tmp_path)
    folder = str(write_dataset(tmp_path / "photos", vectors_of()))
    push_dataset(folder, store.url)
    store.release("photos", "photos_clipmill_parts")
    assert push_dataset(folder, store.url).there == ROWS
    assert len(store.held("photos")) == ROWS


def test_ids_that_are_missing_or_repeated(tmp_path):
    url = f"lancedb://{tmp_path}/db"
    folder = str(write_dataset(tmp_path / "a", vectors_of(4), ids=["a", "b", "a", "c"], parts=1))
    with pytest.raises(DatasetError, match=r"1 of 4 rows .* such as 'a'"):
        push_dataset(folder, url)
    folder = str(write_dataset(tmp_path / "b", vectors_of(4), ids=["a", "", "x", None], parts=1))
    with pytest.raises(DatasetError, match="2 of 4 rows"):
        push_dataset(folder, url)
    with pytest.raises(DatasetError, match="no column 'key'"):
        push_dataset(folder, url, id_column="key")
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "/tmp/folder",
        "http://host/x",
        "mysql://user:geheim@host/x",
        "postgresql://user:geheim@host:port/x",
        "postgresql:///database",
        "postgresql://user:geheim@host/x?sslmode=maybe",
        "postgresql://user:geheim@host/x?schema=y",
        "postgresql+https://host/x",
        "qdrant://",
        "qdrant://:geheim@host/collection",
        "lancedb://host/x",
    ],
)
def test_urls_of_no_database(url, tmp_path):
    folder = str(write_dataset(tmp_path / "photos", vectors_of(3)))
    with pytest.raises(SpecError) as raised:
        push_dataset(folder, url)
    assert "geheim" not in str(raised.value)


def test_no_message_shows_a_password(tmp_path, monkeypatch):
    target = Target.of("postgresql://user:geheim@host/database?sslmode=require")
    assert "geheim" not in target.shown and "geheim" not in repr(target)
    monkeypatch.setenv("PGPASSWORD", "auch geheim")
    for secret in ("geheim", "auch geheim"):
        with pytest.raises(DatasetError) as raised, target.errors("connect", "auch geheim"):
            raise ValueError(f"wrong password {secret!r}")
        assert "geheim" not in str(raised.value) and raised.value.__cause__ is None
        assert raised.value.__suppress_context__


def test_a_server_that_does_not_answer(tmp_path, capsys):
    folder = write_dataset(tmp_path / "photos", vectors_of(3))
    assert run("push", folder, "--to", "postgresql://user:geheim@127.0.0.1:1/x") == 2
    said = capsys.readouterr().err
    assert "postgresql://127.0.0.1:1/x: cannot connect" in said and "geheim" not in said


def test_a_metric_that_would_have_no_effect(tmp_path):
    folder = str(write_dataset(tmp_path / "photos", vectors_of(3)))
    with pytest.raises(SpecError, match="metric"):
        push_dataset(folder, f"lancedb://{tmp_path}/db", metric="dot")
    push_dataset(folder, f"qdrant://{tmp_path}/db", metric="dot")
    with pytest.raises(DatasetError, match="metric"):
        push_dataset(folder, f"qdrant://{tmp_path}/db")


def test_points_of_qdrant_have_ids_that_it_takes():
    own = "12345678-1234-5678-1234-56781234567a"
    assert [point_id(5), point_id(own)] == [5, own]
    assert (
        point_id("a/b.jpg") == "7b778175-96ad-53e0-9aed-f9886b56a4ed"
    )  # for ever: another would write every row twice
    different = {point_id(key) for key in ("5", 5, -5, own, own.upper(), own.replace("-", ""), "x", "X")}
    assert len(different) == 8


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("postgresql://host/x", "pg8000.native", "postgres"),
        ("qdrant:///tmp/x", "qdrant_client", "qdrant"),
        ("milvus:///tmp/x.db", "pymilvus", "milvus"),
        ("lancedb:///tmp/x", "lance", "lance"),
    ],
)
def test_a_client_that_is_not_installed(url, module, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    folder = str(write_dataset(tmp_path / "photos", vectors_of(3)))
    with pytest.raises(MissingExtraError, match=rf"clipmill\[{extra}\]"):
        push_dataset(folder, url)


def test_the_command(tmp_path, capsys):
    folder = write_dataset(tmp_path / "photos", [*vectors_of(3), None])
    command = ["push", folder, "--to", f"lancedb://{tmp_path}/db"]
    assert run(*command) == 0
    said = capsys.readouterr()
    assert "Pushing 4 rows into photos in lancedb:" in said.err
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[:3] == [["collection", "photos", "(new)"], ["rows", "written", "3"], ["without", "a", "vector", "1"]]
    assert run(*command, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["there"], found["created"]) == (0, 4, False)
    assert run(*command, "--id-column", "key") == 2
    assert "--id-column" in capsys.readouterr().err


def test_the_example_and_what_embed_wrote(tmp_path, monkeypatch, capsys):
    """Run twice, on a dataset with a row that failed."""
    monkeypatch.chdir(tmp_path)
    texts = {"a": "a red circle", "b": "a blue star", "c": "", "d": "a green square"}
    lines = [json.dumps({"id": key, "text": text}) for key, text in texts.items()]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    assert run("embed", "captions.jsonl", "--output", "captions", "--model", "demo", "--id-column", "id") == 0
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["push.py", "captions", "qdrant:database"])
    for _ in range(2):
        runpy.run_path(str(ROOT / "examples" / "push.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert [said[0].split()[1], said[3].split()[-1]] == ["3", "3"]
    assert said[1] == "found b 1.0" and len(said) == 6
