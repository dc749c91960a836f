"""`hf://`: repositories of a hub on the loopback as inputs, through the file system of Hugging Face's library."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import apache_beam as beam
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run
from hub_server import TOKEN, Hub, reach
from pictures import encode

from clipmill.datasets.inputs.listing import list_inputs
from clipmill.encoders import EncoderSpec
from clipmill.errors import DatasetError, SpecError, StoreError
from clipmill.failures import Code, RowError
from clipmill.files import retries
from clipmill.files.file_systems import raise_failing_store
from clipmill.media.fetch import FetchPolicy, fetch
from clipmill.models.downloads.objects import fetch_object
from clipmill.transforms import Embed, ReadDocuments, WriteEmbeddings
from clipmill.udfs import embed_columns

PETS = "hf://datasets/me/pets"
MODEL = ("--model", "fake::dim=4", "--engine", "beam")
IMAGES = (*MODEL, "--column", "image=image")
PICTURE = encode(np.full((4, 5, 3), 40, np.uint8))


def parquet(*ids: str) -> bytes:
    """Rows as `datasets` writes them."""
    rows = [{"id": one, "image": {"bytes": PICTURE, "path": f"{one}.png"}} for one in ids]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with Hub() as hub:
        reach(hub, monkeypatch)
        hub.put("datasets/me/pets", "README.md", b"# Pets")
        hub.put("datasets/me/pets", "data/train-0.parquet", parquet("a", "b"))
        hub.put("datasets/me/pets", "data/train-1.parquet", parquet("c"))
        hub.put("datasets/me/pets", "default/0000.parquet", parquet("d"), revision="refs/convert/parquet")
        hub.put("datasets/me/hidden", "data/0.parquet", parquet("h"))
        hub.put("datasets/me/hidden", "0.png", PICTURE)
        hub.private.add("datasets/me/hidden")
        hub.put("datasets/me/gated", "data/0.parquet", parquet("g"))
        hub.gated.add("datasets/me/gated")
        monkeypatch.setattr(retries, "STORE_RETRIES", retries.RetryPolicy(attempts=4, pause_s=0.01))
        yield hub


def ids_in(directory: Path) -> list[str]:
    return sorted(pa.concat_tables(map(pq.read_table, directory.glob("part-*.parquet")))["id"].to_pylist())


@pytest.mark.parametrize(
    ("place", "ids"),
    [
        ("data/*.parquet", "abc"),
        ("**/train-?.parquet", "abc"),
        ("data", "abc"),
        ("data/train-1.parquet", "c"),
        ("@refs%2Fconvert%2Fparquet/default/*.parquet", "d"),
        ("@refs/convert/parquet/default", "d"),
    ],
)
def test_tables_of_a_repository_are_embedded(place: str, ids: str, hub: Hub, tmp_path: Path) -> None:
    place = f"{PETS}{place}" if place.startswith("@") else f"{PETS}/{place}"
    assert run("embed", place, "-o", tmp_path / "out", *IMAGES) == 0
    assert ids_in(tmp_path / "out") == list(ids)


def test_every_kind_of_input(hub: Hub, tmp_path: Path) -> None:
    """Pictures with captions beside them, JSON lines, and tars; a damaged table is one failure."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        (member := tarfile.TarInfo("t.png")).size = len(PICTURE)
        tar.addfile(member, io.BytesIO(PICTURE))
    for name, content in {
        "p/0.png": PICTURE,
        "p/0.txt": b"a cat",
        "x.jsonl": b'{"id": "j", "text": "x"}\n',
        "y.tar": archive.getvalue(),
        "z.parquet": b"PAR1 nonsense",
    }.items():
        hub.put("datasets/me/mixed", name, content)
    assert run("embed", "hf://datasets/me/mixed", "-o", tmp_path / "out", *MODEL) == 0
    assert len(ids_in(tmp_path / "out")) == 3 and "hf://datasets/me/mixed/p/0.png" in ids_in(tmp_path / "out")
    (failed,) = (json.loads(path.read_text()) for path in (tmp_path / "out" / "_failures").iterdir())
    assert failed["code"] == Code.MALFORMED


def test_a_dataset_that_was_uploaded_is_read(hub: Hub, tmp_path: Path, capsys) -> None:
    """It is indexed, reported on, pushed once, and rows in it are skipped."""
    assert run("embed", f"{PETS}/data/*.parquet", "-o", tmp_path / "out", *IMAGES) == 0
    hub.put_folder("datasets/me/vectors", tmp_path / "out")
    vectors = "hf://datasets/me/vectors"
    assert run("index", vectors, "-o", tmp_path / "index", "--engine", "beam") == 0
    assert run("report", vectors, "-o", tmp_path / "report.html") == 0
    for written in (3, 0):
        capsys.readouterr()
        assert run("push", vectors, "--to", f"lancedb:{tmp_path}/database", "--json") == 0
        assert json.loads(capsys.readouterr().out)["rows"] == written
    again = (f"{PETS}/data/*.parquet", "-o", tmp_path / "again", *IMAGES, "--skip-existing", vectors)
    assert run("embed", *again) == 0 and ids_in(tmp_path / "again") == []


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("hf://datasets/me/hidden/data/*.parquet", "HF_TOKEN"),
        ("hf://datasets/me/gated/data/*.parquet", "accept its terms at http"),
        ("hf://datasets/me/none", "there is no repository at http"),
        ("hf://me/pets/data", "hf://datasets/OWNER/NAME"),
        (f"{PETS}@v9/data/*.parquet", "no revision 'v9'"),
        (f"{PETS}/data/none.parquet", "no such file or folder"),
        ("hf://datasets/pets", "namespace/name"),
    ],
)
def test_what_a_hub_does_not_give(place: str, said: str, hub: Hub, tmp_path: Path, capsys) -> None:
    """The job ends before it writes anything, and says what to do."""
    assert run("embed", place, "-o", tmp_path / "out", *IMAGES) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("repository", ["hidden", "gated"])
def test_a_token_opens_private_repositories(repository: str, hub: Hub, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert run("embed", f"hf://datasets/me/{repository}/data/*.parquet", "-o", tmp_path / "out", *IMAGES) == 0


def test_a_busy_hub_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    """Also where the library itself does not: for repositories, and for the first page of a listing."""
    hub.refuses_calls = True
    hub.refusals = [(429, ""), (503, ""), (500, "")]
    assert run("embed", f"{PETS}/data/*.parquet", "-o", tmp_path / "out", *IMAGES) == 0
    assert ids_in(tmp_path / "out") == ["a", "b", "c"]


@pytest.mark.parametrize(("status", "is_failing"), [(429, True), (503, True), (404, False), (400, False)])
def test_a_failing_hub_fails_no_rows(status: int, is_failing: bool, hub: Hub) -> None:
    """The job ends, to be resumed; a file that is not there any more is a failure."""
    import huggingface_hub.errors

    hub.refuses_calls, hub.refusals = True, [(status, "EntryNotFound")] * 9
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError) as caught:
        huggingface_hub.HfApi().dataset_info("me/pets")
    if is_failing:
        with pytest.raises(StoreError):
            raise_failing_store(caught.value, PETS)
    else:
        raise_failing_store(caught.value, PETS)
        assert not retries.is_transient_error(caught.value)


def test_a_lost_hub_fails_no_rows(monkeypatch) -> None:
    with Hub() as hub:
        reach(hub, monkeypatch)
    import huggingface_hub

    with pytest.raises(Exception) as caught:  # of the library's HTTP client, which changes
        huggingface_hub.HfApi().dataset_info("me/pets")
    with pytest.raises(StoreError):
        raise_failing_store(caught.value, PETS)


def test_a_file_costs_few_requests(hub: Hub, tmp_path: Path) -> None:
    """A hub takes some thousands in five minutes; to list the folder at every opening would be 23 for each file."""
    for number in range(12):
        hub.put("datasets/me/many", f"{number}.parquet", parquet(str(number)))
    assert run("embed", "hf://datasets/me/many/*.parquet", "-o", tmp_path / "out", *IMAGES) == 0
    assert len(ids_in(tmp_path / "out")) == 12 and len(hub.calls) < 14 * 12


def test_changed_files_are_noticed(hub: Hub, tmp_path: Path) -> None:
    """By git's name of the content, also if the size is the same; and in the next job of the same process."""
    (before,) = list_inputs([f"{PETS}/data/train-1.parquet"])
    hub.put("datasets/me/pets", "data/train-1.parquet", parquet("e"))
    (after,) = list_inputs([f"{PETS}/data/train-1.parquet"])
    assert before.size == after.size and before.version != after.version
    assert run("embed", f"{PETS}/data/*.parquet", "-o", tmp_path / "out", *IMAGES) == 0
    hub.put("datasets/me/pets", "data/train-2.parquet", parquet("f"))
    assert run("embed", f"{PETS}/data/*.parquet", "-o", tmp_path / "out", *IMAGES, "--overwrite") == 0
    assert ids_in(tmp_path / "out") == ["a", "b", "e", "f"]


def test_weights_of_a_repository_are_copied_once_per_version(hub: Hub, tmp_path: Path) -> None:
    for content in (b"first", b"other"):
        hub.put("me/model", "w.safetensors", content)
        fsspec.filesystem("hf").invalidate_cache()
        assert fetch_object("hf://me/model/w.safetensors", str(tmp_path)).read_bytes() == content


# URIs in rows


@pytest.mark.parametrize("allowed", ["hf://datasets/me/hidden", "HF://datasets/me/hidden/"])
def test_rows_name_files_of_repositories_by_permission(allowed: str, hub: Hub, monkeypatch) -> None:
    """The job's token opens what the author of a row may not see."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for policy in (FetchPolicy(), FetchPolicy(buckets=PETS), FetchPolicy(buckets="gs://me")):
        with pytest.raises(RowError, match="allow_buckets='hf://datasets/me/hidden'") as caught:
            fetch("hf://datasets/me/hidden/0.png", policy)
        assert caught.value.failure.code == Code.FORBIDDEN_URI
    assert not hub.calls
    for uri in ("hf://datasets/me/hidden/0.png", "hf://datasets/me/hidden@main/0.png"):
        assert fetch(uri, FetchPolicy(buckets=allowed)).data == PICTURE
    assert fetch("hf://datasets/me/hidden/0.png", FetchPolicy(schemes=("hf",))).data == PICTURE
    assert fetch("hf://datasets/me/hidden/0.png", FetchPolicy(), trusted=True).data == PICTURE


@pytest.mark.parametrize(
    "uri",
    [
        *("hf://me/pets/0.png", "hf://models/me/pets/0.png", "hf://spaces/me/pets/0.png", "hf://buckets/me/pets/0.png"),
        *("hf://datasets/me/pets2/0.png", "hf://datasets/me/Pets/0.png", "hf://Datasets/me/pets/0.png"),
        *("hf://datasets/me/pets/../hidden/0.png", "hf://datasets/me/pets/./0.png", "hf://datasets//me/pets/0.png"),
        *("hf://datasets/me/hidden@me/pets/0.png", "hf://datasets/me@x/pets/0.png", "hf://datasets/me%2Fpets/0.png"),
        *("hf://datasets/datasets/me/pets/0.png", "hf:datasets/me/pets/0.png", "hf:///datasets/me/pets/0.png"),
        *("hf://datasets/me/pets?/0.png", "hf://datasets/me/pets#/0.png", "hf://datasets/me/p\u0435ts/0.png"),
    ],
)
def test_no_spelling_reaches_another_repository(uri: str, hub: Hub) -> None:
    with pytest.raises(RowError) as caught:
        fetch(uri, FetchPolicy(buckets=PETS))
    assert caught.value.failure.code == Code.FORBIDDEN_URI and not hub.calls and not hub.requests


@pytest.mark.parametrize("given", ["hf://datasets/pets", "hf://pets", f"{PETS}/data", f"{PETS}@main", "hf://datasets"])
def test_a_permission_is_for_a_repository(given: str) -> None:
    with pytest.raises(SpecError, match="hf://datasets/owner/name"):
        FetchPolicy(buckets=given)


@pytest.mark.parametrize(
    ("uri", "code", "said"),
    [
        ("hf://datasets/me/pets/none.png", Code.NOT_FOUND, "no such file"),
        ("hf://datasets/me/hidden/0.png", Code.NOT_FOUND, "HF_TOKEN"),
        ("hf://datasets/me/gated/data/0.parquet", Code.FETCH_FAILED, "accept its terms"),
        (f"{PETS}@v9/0.png", Code.NOT_FOUND, "no revision 'v9'"),
    ],
)
def test_what_a_hub_does_not_give_to_a_row(uri: str, code: Code, said: str, hub: Hub) -> None:
    with pytest.raises(RowError, match=said) as caught:
        fetch(uri, FetchPolicy(schemes=("hf",)))
    assert (caught.value.failure.code, caught.value.failure.transient) == (code, False)


# Engines


@pytest.mark.parametrize("place", [f"{PETS}/data/*.parquet", f"{PETS}@refs/convert/parquet/default"])
def test_beam_reads_documents_of_a_repository(place: str, hub: Hub, tmp_path: Path) -> None:
    """Beam has no file system for it."""
    with beam.Pipeline() as p:
        documents = p | ReadDocuments(place, image="image")
        documents | Embed(EncoderSpec("fake::dim=4")) | WriteEmbeddings(tmp_path / "out")
    assert ids_in(tmp_path / "out") == (["d"] if "@" in place else ["a", "b", "c"])


def test_spark_reads_a_repository(spark, hub: Hub, tmp_path: Path, monkeypatch) -> None:
    """Shards of a command, and URIs in rows, in Spark's own Python workers."""
    for name in ("HF_ENDPOINT", "HF_TOKEN_PATH"):
        monkeypatch.setitem(spark.sparkContext.environment, name, hub.address if "POINT" in name else "/dev/null")
    spark_command = ("--engine", "spark", *IMAGES[:2], *IMAGES[4:])
    assert run("embed", f"{PETS}/data/train-1.parquet", "-o", tmp_path / "out", *spark_command) == 0
    assert ids_in(tmp_path / "out") == ["c"]
    hub.put("datasets/me/pets", "0.png", PICTURE)
    rows = spark.createDataFrame([(f"{PETS}/0.png",), ("hf://datasets/me/hidden/0.png",)], "uri string").coalesce(1)
    found = embed_columns(rows, {"uri": "image"}, model="fake::dim=4", allow_buckets=PETS).collect()
    assert [row.uri_embedding is None for row in found] == [False, True]
    assert [failure.code for row in found for failure in row.embedding_failures or ()] == [Code.FORBIDDEN_URI]


# Outputs


def test_nothing_is_written_to_a_hub(hub: Hub, tmp_path: Path, capsys) -> None:
    """Refused before the work, with the command that uploads a folder."""
    assert run("embed", f"{PETS}/data/*.parquet", "-o", tmp_path / "out", *IMAGES) == 0
    asked, out = len(hub.calls), "hf://datasets/me/out"
    for command in (
        ("embed", tmp_path / "out", "-o", out, *IMAGES),
        ("index", tmp_path / "out", "-o", out, "--engine", "beam"),
        ("report", tmp_path / "out", "-o", f"{out}/page.html"),
    ):
        assert run(*command) == 2
        assert "hf upload me/out FOLDER --repo-type dataset" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="hf upload me/out"):
        WriteEmbeddings(out)
    assert len(hub.calls) == asked and all(method != "POST" for method, *_ in hub.calls)


def test_what_is_uploaded_is_a_dataset_of_hugging_face(hub: Hub, tmp_path: Path, monkeypatch) -> None:
    """The tables of the output, as docs/ecosystem.md uploads them; vectors beside the images, with their features."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)  # read when it was imported
    datasets.disable_progress_bars()
    features = datasets.Features({"id": datasets.Value("string"), "image": datasets.Image()})
    rows = {"id": ["a", "b"], "image": [{"bytes": PICTURE, "path": None}, {"bytes": b"broken", "path": None}]}
    (tmp_path / "in").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "in" / "x.parquet"))
    assert run("embed", tmp_path / "in", "-o", tmp_path / "out", *IMAGES, "--rows-per-shard", 1) == 0
    (tmp_path / "uploaded").mkdir()
    for path in (tmp_path / "out").glob("part-*.parquet"):
        hub.put("datasets/me/out", path.name, path.read_bytes())
        shutil.copy(path, tmp_path / "uploaded" / path.name)
    cache = str(tmp_path / "cache")
    on_hub = {"path": "parquet", "data_files": "hf://datasets/me/out/part-*.parquet"}
    for place in (on_hub, {"path": str(tmp_path / "uploaded")}):
        found = datasets.load_dataset(**place, split="train", cache_dir=cache)
        assert isinstance(found.features["image"], datasets.Image) and found["id"][:] == ["a"]
        assert np.shape(found[0]["image_embedding"]) == (4,) and found[0]["image"].size == (5, 4)
