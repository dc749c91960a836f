"""One pattern language: the same files for the same pattern, whatever reads them."""

from __future__ import annotations

import json
import uuid

import fsspec
import pytest
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem
from beam_helpers import Keep, kept, pipeline
from cli_helpers import run

from clipmill.datasets import plan_shards, read_dataset
from clipmill.errors import DatasetError
from clipmill.transforms import Document, ReadDocuments

TREE = {
    *("top.jpg", "top.png", "lone.txt", "a/mid.jpg", "a/mid.txt", "a/mid.json", "a/b/deep.jpg", "a/b/c/deeper.png"),
    *("b/x1.jpg", "b/x2.jpg", "b/y-1.jpg", "b/z^.jpg", "b/q*.jpg", "ab/[1].jpg", "ab/1.jpg", "t/rows.jsonl"),
    *(".hidden.jpg", ".h/in.jpg", "a/.x.jpg", "_marks/m.jpg", "_marks/rows.jsonl", "shards/00000.tar", "a b/c.jpg"),
    *("shards/00000.parquet", "shards/00000_stats.json"),
}
"""Beside `a/mid.jpg` are its caption and metadata, and beside `00000.tar` its records: no inputs of their own."""
OF_A = {"a/mid.jpg", "a/b/deep.jpg", "a/b/c/deeper.png"}
OF_B = {"b/x1.jpg", "b/x2.jpg", "b/y-1.jpg", "b/z^.jpg", "b/q*.jpg"}
OF_AB = {"ab/[1].jpg", "ab/1.jpg"}
JPEGS = {"top.jpg", "a/mid.jpg", "a/b/deep.jpg", *OF_B, *OF_AB, "_marks/m.jpg", "a b/c.jpg"}
FOLDER = {*JPEGS, *OF_A, "top.png", "lone.txt", "t/rows.jsonl", "shards/00000.tar"}
PATTERNS = {
    "top.jpg": {"top.jpg"},
    "*.jpg": {"top.jpg"},
    "*": {"top.jpg", "top.png", "lone.txt"},
    "t?p.*": {"top.jpg", "top.png"},
    "**/*.jpg": JPEGS,
    "**.jpg": JPEGS,
    "**/**/*.jpg": JPEGS,
    "**": FOLDER | {"_marks/rows.jsonl"},
    "**/*": FOLDER | {"_marks/rows.jsonl"},
    "a/**": OF_A,
    "a/**/*.png": {"a/b/c/deeper.png"},
    "a/**/b/*.jpg": {"a/b/deep.jpg"},
    "**/b/*.jpg": {"a/b/deep.jpg"} | OF_B,
    "**/b/**": {"a/b/deep.jpg", "a/b/c/deeper.png"} | OF_B,
    "*/*.jpg": JPEGS - {"top.jpg", "a/b/deep.jpg"},
    "*/*/*": {"a/b/deep.jpg"},
    "a*/*.jpg": {"a/mid.jpg", "a b/c.jpg"} | OF_AB,
    "a**/*.jpg": {"a/mid.jpg", "a/b/deep.jpg", "a b/c.jpg"} | OF_AB,
    "b/x[12].jpg": {"b/x1.jpg", "b/x2.jpg"},
    "b/[!x]*.jpg": OF_B - {"b/x1.jpg", "b/x2.jpg"},
    "b/[^z]*.jpg": {"b/z^.jpg"},
    "b/y[+-]1.jpg": {"b/y-1.jpg"},
    "b/q[*].jpg": {"b/q*.jpg"},
    "b/q*.jpg": {"b/q*.jpg"},
    "b[!x]x1.jpg": set(),
    "ab/[[]*": {"ab/[1].jpg"},
    "ab/[1].jpg": {"ab/[1].jpg"},
    ".h/*": {".h/in.jpg"},
    "**/.*.jpg": {".hidden.jpg", "a/.x.jpg"},
    "{a,b}/*.jpg": set(),
    "shards/*": {"shards/00000.tar"},
    "a": OF_A,
    "b/": OF_B,
    "a/m*.txt": {"a/mid.txt"},
    "missing/*.jpg": set(),
    "[t-": set(),
}
"""What each pattern finds; nothing is an error."""
LINE = b'{"text": "x"}\n'


class Bucket(LocalFileSystem):
    """An object store that only Beam knows."""

    @classmethod
    def scheme(cls):
        return "bucket"

    def has_dirs(self):
        return False

    def exists(self, path):
        return path.removeprefix("bucket://b/") in TREE

    def _list(self, prefix):
        found = (f"bucket://b/{name}" for name in (*TREE, "b/"))  # a folder made by hand is an object, too
        return (FileMetadata(path, 1) for path in found if path.startswith(prefix))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    for name in TREE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(LINE if name.endswith("jsonl") else b"x")
    return folder


@pytest.fixture(scope="module")
def memory():
    root = f"memory:///{uuid.uuid4().hex}"
    fsspec.filesystem("memory").pipe({f"{root}/{name}": b"x" for name in TREE})
    return root


def planned(root, pattern):
    try:
        shards = plan_shards([f"{root}/{pattern}"])
    except DatasetError as err:
        assert pattern in str(err)
        return set()
    return {path.removeprefix(f"{root}/") for shard in shards for path in shard.paths}


@pytest.mark.parametrize(("pattern", "expected"), PATTERNS.items(), ids=PATTERNS)
def test_jobs_find_them_on_disks_and_in_object_stores(tree, memory, pattern, expected):
    assert planned(tree, pattern) == expected
    assert planned(memory, pattern) == expected


@pytest.mark.parametrize("of", ["disk", "bucket"])
@pytest.mark.parametrize(("pattern", "expected"), PATTERNS.items(), ids=PATTERNS)
def test_read_documents_finds_the_same(tree, tmp_path, monkeypatch, pattern, expected, of):
    root = str(tree) if of == "disk" else "bucket://b"
    if of == "bucket":  # which nothing can open
        monkeypatch.setattr(
            "clipmill.transforms.read.read_documents", lambda file, *_, **__: [Document(id=file.paths[0])]
        )
    p = pipeline()
    _ = p | ReadDocuments(f"{root}/{pattern}") | Keep(tmp_path / "kept")
    if not expected:
        is_glob = (of == "disk" and (tree / pattern).exists()) or not set(pattern).isdisjoint("*?[")
        with pytest.raises(Exception, match="matches no file" if is_glob else "no such file or folder"):
            p.run().wait_until_finish()
        return
    p.run().wait_until_finish()
    ids = [document.id for document in kept(tmp_path / "kept")]
    names = [id.removeprefix(f"{root}/").removesuffix(":1").removesuffix(":0") for id in ids]
    assert sorted(names) == sorted(expected)


@pytest.mark.parametrize("engine", ["beam", "spark"])
@pytest.mark.parametrize(("pattern", "expected"), PATTERNS.items(), ids=PATTERNS)
def test_a_dry_run_of_either_engine_counts_them(tree, tmp_path, capsys, engine, pattern, expected):
    command = ["embed", f"{tree}/{pattern}", "-o", tmp_path / "out", "--model", "fake::", "--engine", engine]
    code = run(*command, "--dry-run", "--json")
    assert code == (0 if expected else 2)
    if expected:
        assert json.loads(capsys.readouterr().out)["files"] == len(expected)


def test_a_job_on_either_engine_embeds_them(tmp_path, spark):
    """Of one file alone and of patterns, each once though two find it."""
    for name in ("a/mid.jsonl", "a/b/deep.jsonl", "b/x1.jsonl"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(LINE)
    inputs = [f"{tmp_path}/in/a/**/*.jsonl", f"{tmp_path}/in/**/b/*.jsonl", f"{tmp_path}/in/b/x1.jsonl"]
    for engine in ("beam", "spark"):
        assert run("embed", *inputs, "-o", tmp_path / engine, "--model", "fake::", "--engine", engine) == 0
        ids = read_dataset(str(tmp_path / engine)).column("id").to_pylist()
        assert sorted(ids) == [f"{tmp_path}/in/{name}.jsonl:1" for name in ("a/b/deep", "a/mid", "b/x1")]


def test_a_range_that_runs_backwards_is_refused(tree):
    with pytest.raises(DatasetError, match=r"pattern .*\[z-a\].* not valid"):
        plan_shards([f"{tree}/[z-a].jpg"])


def test_links_count_as_what_they_lead_to(tree, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/linked").symlink_to(tree / "b")
    with pipeline() as p:
        _ = p | ReadDocuments(f"{tmp_path}/photos/**/x?.jpg") | Keep(tmp_path / "kept")
    found = {document.id for document in kept(tmp_path / "kept")}
    assert found == {f"{tmp_path}/photos/linked/x1.jpg", f"{tmp_path}/photos/linked/x2.jpg"}


def test_a_caption_beside_a_listed_image_is_a_tag(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"x")
    (tmp_path / "x.txt").write_text("a cat")
    with pipeline() as p:
        _ = p | ReadDocuments(f"{tmp_path}/*") | Keep(tmp_path / "kept")
    (document,) = kept(tmp_path / "kept")
    assert (document.id, document.tags) == (f"{tmp_path}/x.jpg", {"caption": "a cat"})
