"""What a report says of datasets, indexes and other files, what it lacks, and that strangers' words stay words."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shlex
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run, write_pictures
from list_kinds import every_list
from pictures import encode
from places import DOCS
from report_helpers import EVIL, SPEC, clustered, look, page_of, text_of, write_plain
from storage_jobs import do, do_job, lines

from clipmill.datasets.summary import DatasetSummary
from clipmill.encoders import EncoderSpec
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.plans.rank_plan import RankPlan
from clipmill.errors import DatasetError
from clipmill.indexes.build import IndexOptions, build_index
from clipmill.reports.columns import content_of
from clipmill.reports.overview import Looked, overview
from clipmill.reports.plots import map_plot
from clipmill.reports.vectors import SampleOptions

# Datasets


def test_the_sample_is_of_the_vectors_that_are_in_the_files(tmp_path: Path) -> None:
    """Drawn across files and row groups, and each vector beside its own row."""
    vectors = clustered(300)
    for part in range(3):
        rows = range(100 * part, 100 * part + 100)
        write_plain(tmp_path / "in" / f"{part}.parquet", vectors[list(rows)], id=[f"row-{n}" for n in rows])
    (section,) = look(tmp_path / "in", rows=120).vectors
    assert (section.sample.rows, section.sample.drawn, len(section.sample.entries)) == (300, 120, 120)
    for vector, entry in zip(section.sample.vectors, section.sample.entries, strict=True):
        assert np.array_equal(vector, vectors[int(entry.name.removeprefix("row-"))])
    assert {entry.position // 100 for entry in section.sample.entries} == {0, 1, 2}


def test_what_cannot_be_compared_is_counted_and_said(tmp_path: Path) -> None:
    rows = [[1.0, 2.0], None, [1.0, float("nan")], [1.0, 2.0, 3.0], [0.0, 0.0], [2.0, 1.0]]
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"vector": pa.array(rows, pa.list_(pa.float32()))}), path)
    (section,) = look(path).vectors
    sample = section.sample
    assert (len(sample.entries), sample.nulls, sample.not_finite, sample.other_dims) == (3, 1, 1, {3: 1})
    assert section.likeness.vectors == 2 and len(section.projection.points) == 2
    said = text_of(page_of(tmp_path, path))
    assert (
        "1 of these rows have no vector" in said and "1 vectors hold NaN" in said and "1 vectors have 3 values" in said
    )


def test_a_jobs_dataset_shows_failures_provenance_throughput_and_thumbnails(tmp_path: Path, monkeypatch) -> None:
    # this job is over too soon for a rate; `tests/jobs/test_resume.py` has when there is one
    monkeypatch.setattr(DatasetSummary, "rows_per_second", 12.5)
    do(str(tmp_path / "out"), write_pictures(tmp_path / "in"), None, spec=SPEC, rows=2)
    found = look(tmp_path / "out")
    (section,) = found.vectors
    pictures = [section.picture(entry) for entry in section.sample.entries]
    assert [one.jpeg[:2] if one.jpeg else None for one in pictures] == [b"\xff\xd8"] * 3
    assert [one.size for one in pictures] == [(5, 4), (6, 4), (7, 4)]
    assert {(one.code, one.count) for one in found.reasons} == {("undecodable", 1), ("empty", 1)}
    assert found.work is not None and found.work.shards == 3 and found.work.timed.shape == (3, 3)
    page = page_of(tmp_path, tmp_path / "out")
    said = text_of(page)
    for words in (
        "2 values failed",
        "no picture",
        "fake::dim=8",
        "values in a vector",
        "12.5 rows a second between the first and the last row",
        "not complete",
    ):
        assert (words in said) == (words not in ("no picture", "not complete")), words
    assert page.count('class="plot"') == page.count('class="plot-of"') == 5
    assert "data:image/jpeg;base64," in page


def test_a_job_that_did_not_end_says_so_at_the_top(tmp_path: Path) -> None:
    do(str(tmp_path / "out"), write_pictures(tmp_path / "in"), None, spec=SPEC, rows=2)
    (tmp_path / "out" / "_SUCCESS").unlink()
    manifest = sorted((tmp_path / "out" / "_manifest").glob("*.json"))[-1]
    manifest.unlink()
    said = text_of(page_of(tmp_path, tmp_path / "out"))
    assert 0 < said.index("not complete: 2 of 3 shards are there") < said.rindex("Failures")


def test_damaged_files_are_named_and_the_others_shown(tmp_path: Path) -> None:
    do(str(tmp_path / "out"), write_pictures(tmp_path / "in"), None, spec=SPEC, rows=1)
    first, second, *_ = sorted((tmp_path / "out").glob("part-*.parquet"))
    first.write_bytes(first.read_bytes()[:-20])
    second.unlink()
    found = look(tmp_path / "out")
    assert any("differ in size" in one and first.name in one for one in found.warnings)
    assert any("are missing" in one and second.name in one for one in found.warnings)
    assert any("cannot be read" in one and first.name in one for one in found.warnings)
    assert len(found.vectors[0].sample.entries) < 3


def test_each_column_of_vectors_has_a_section_of_its_own(tmp_path: Path) -> None:
    for number in range(4):
        pixels = np.full((8, 8, 3), 50 * number, np.uint8)
        (tmp_path / f"{number}.png").write_bytes(encode(pixels))
    rows = [{"id": f"r{n}", "caption": f"picture {n}", "photo": str(tmp_path / f"{n}.png")} for n in range(4)]
    plan = ColumnPlan.of({"caption": "text", "photo": "image"})
    given = lines(tmp_path / "rows.jsonl", *rows)
    do(str(tmp_path / "out"), given, plan, spec=EncoderSpec("fake::dim=8", device="cpu", allow_local_files=True))
    captions, photos = look(tmp_path / "out").vectors
    assert [entry.text for entry in captions.sample.entries] == [f"picture {n}" for n in range(4)]
    assert captions.pictures == {}
    assert [entry.name for entry in photos.sample.entries] == ["r0", "r1", "r2", "r3"]
    assert all(photos.picture(entry).jpeg for entry in photos.sample.entries)
    page = page_of(tmp_path, tmp_path / "out", "--column", "photo_embedding")
    assert "photo_embedding" in page and "<code>caption_embedding</code>" not in page


@pytest.mark.parametrize("kind", ["blob", "list"])
def test_pictures_in_the_rows_themselves_and_lists_of_vectors(tmp_path: Path, kind: str) -> None:
    shots = [encode(np.full((6, 9, 3), 60 * n, np.uint8)) for n in range(3)]
    photos = shots if kind == "blob" else [[shots[0], None], [shots[1]], [shots[2]]]
    pq.write_table(pa.table({"id": ["a", "b", "c"], "photo": photos}), tmp_path / "in.parquet")
    do(str(tmp_path / "out"), tmp_path / "in.parquet", ColumnPlan.of({"photo": "image"}), spec=SPEC)
    (section,) = look(tmp_path / "out").vectors
    names = ["a", "b", "c"] if kind == "blob" else ["a[0]", "b[0]", "c[0]"]
    assert [entry.name for entry in section.sample.entries] == names
    assert [section.picture(entry).size for entry in section.sample.entries] == [(9, 6)] * 3


def test_scores_of_ranked_rows_are_counted_over_all_rows(tmp_path: Path) -> None:
    rows = [{"id": n, "q": f"query {n}", "c": [f"text {m}" for m in range(n + 1)] + [""]} for n in range(5)]
    plan = RankPlan("q", "c", query_kind="text", candidate_kind="text")
    do(str(tmp_path / "out"), lines(tmp_path / "in.jsonl", *rows), plan, spec=SPEC)
    (scores,) = look(tmp_path / "out").scores
    written = pq.read_table(tmp_path / "out", columns=["ranked"]).column("ranked").to_pylist()
    cosines = [one["cosine"] for row in written for one in row if one["cosine"] is not None]
    assert (scores.rows, scores.values, scores.missing) == (5, 15, 5)
    assert scores.cosines.counts.tolist() == np.histogram(cosines, scores.cosines.edges)[0].tolist()
    assert scores.best is not None and scores.best.total == 5
    said = text_of(page_of(tmp_path, tmp_path / "out"))
    assert "15 scores of 5 rows" in said and "Vectors:" not in said


def test_labels_are_counted_by_the_best(tmp_path: Path) -> None:
    run(
        "classify",
        write_pictures(tmp_path / "in"),
        "--labels",
        "red,blue",
        "--model",
        "fake::dim=8",
        "-o",
        tmp_path / "o",
    )
    (scores,) = look(tmp_path / "o").scores
    assert sum(count for _, count in scores.labels) == 3 == scores.rows
    assert {name for name, _ in scores.labels} <= {"red", "blue"}
    assert "The best label" in text_of(page_of(tmp_path, tmp_path / "o"))


@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_dataset_and_one_of_one_row_have_a_page(tmp_path: Path, rows: int) -> None:
    do(str(tmp_path / "out"), lines(tmp_path / "in.jsonl", *[{"text": "one"}][:rows]), None, spec=SPEC)
    said = text_of(page_of(tmp_path, tmp_path / "out"))
    assert ("There is nothing to draw" in said) == (rows == 0)
    assert ("1 vector of 1 row" in said) == (rows == 1)


def test_a_dataset_in_which_all_failed_has_a_page(tmp_path: Path) -> None:
    do(str(tmp_path / "out"), lines(tmp_path / "in.jsonl", {"text": ""}, {"text": ""}), None, spec=SPEC)
    said = text_of(page_of(tmp_path, tmp_path / "out"))
    assert "2 values failed" in said and "There is nothing to draw" in said


def test_files_of_another_origin_say_what_is_missing(tmp_path: Path) -> None:
    said = text_of(page_of(tmp_path, write_plain(tmp_path / "in" / "v.parquet", clustered(20))))
    for words in ("do not say which model", "what was not written by clipmill", "there are no manifests"):
        assert words in said


@pytest.mark.parametrize("format", ["jsonl", "clip-retrieval"])
def test_rows_that_are_no_parquet_are_said_and_the_rest_is_there(tmp_path: Path, format: str) -> None:
    spec = EncoderSpec("fake::dim=8", device="cpu", normalize=True)
    do(str(tmp_path / "out"), write_pictures(tmp_path / "in"), None, spec=spec, format=format)
    said = text_of(page_of(tmp_path, tmp_path / "out"))
    assert f"the rows of this dataset are {format}" in said and "2 values failed" in said and "in the model" in said


def test_a_threshold_that_is_no_number_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = write_plain(tmp_path / "in" / "v.parquet", clustered(20))
    assert run("report", given, "-o", tmp_path / "report.html", "--duplicates-above", "nan") == 2
    assert "not a finite number" in capsys.readouterr().err


# Strangers


def test_words_of_strangers_stay_words(tmp_path: Path) -> None:
    """In ids, texts, messages and labels; no tag of theirs is in the page, and no end of a script."""
    rows = [{"id": f"{EVIL}{n}", "text": f"{EVIL} text {n // 2}"} for n in range(6)]
    given = lines(tmp_path / "in.jsonl", *rows, {"id": EVIL + "</script>", "uri": f"x{EVIL}:/nowhere"})
    do(str(tmp_path / "out"), given, None, spec=SPEC)
    page = page_of(tmp_path, tmp_path / "out", "--duplicates-above", "0.5")
    assert "<script>document" not in page and "<img src=x" not in page
    assert page.count("&lt;script&gt;document") > 6
    scripts = re.findall(r"<script[^>]*>", page)
    assert page.count("</script>") == len(scripts)
    nonces = {match for script in scripts for match in re.findall(r'nonce="([^"]+)"', script)}
    assert len(nonces) == 1 and all("nonce=" in one or "application/json" in one for one in scripts)
    assert f"script-src 'nonce-{nonces.pop()}'" in page


def test_local_files_that_records_name_are_opened_only_if_that_was_allowed(tmp_path: Path) -> None:
    """A vector that came along with a record does not show that its file was ever read."""
    (tmp_path / "mine.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))
    path = write_plain(tmp_path / "v.parquet", clustered(2), uri=[str(tmp_path / "mine.png")] * 2)
    (refused,) = look(path).vectors
    assert {one.reason for one in refused.pictures.values()} == {
        "a local file that no job was seen to read: --allow-local-files opens it"
    }
    (allowed,) = overview(str(path), Looked(allow_local_files=True)).vectors
    assert [one.size for one in allowed.pictures.values()] == [(4, 4)] * 2


def test_objects_are_fetched_from_allowed_buckets_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def url_to_fs(uri: str, **options: object) -> object:
        raise FileNotFoundError(uri)

    monkeypatch.setattr(fsspec.core, "url_to_fs", url_to_fs)
    path = write_plain(tmp_path / "v.parquet", clustered(1), uri=["gs://photos/1.png"])
    for options, reason in (({}, "forbidden_uri"), ({"allow_buckets": "gs://photos"}, "not_found")):
        (section,) = overview(str(path), Looked(fetch_remote=True, **options)).vectors
        assert [one.reason.partition(":")[0] for one in section.pictures.values()] == [reason]


def test_nothing_is_fetched_unless_asked(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "v.parquet", clustered(1), uri=["http://127.0.0.1:9/a.png"])
    assert [one.reason for one in look(path).vectors[0].pictures.values()] == [
        "not on this machine: --fetch-remote fetches it"
    ]
    (section,) = overview(str(path), Looked(fetch_remote=True)).vectors
    assert [one.reason and one.reason.partition(":")[0] for one in section.pictures.values()] == ["forbidden_uri"]


# Indexes


def test_an_index_shows_recall_and_finds_duplicates_beyond_the_sample(tmp_path: Path) -> None:
    vectors = clustered(400)
    vectors[200:] = vectors[:200] + 1e-4  # each has a double in the other half
    write_plain(tmp_path / "v.parquet", vectors, id=[f"row-{n}" for n in range(400)])
    build_index([str(tmp_path / "v.parquet")], str(tmp_path / "index"), IndexOptions(factory="IVF8,Flat", queries=50))
    found = overview(str(tmp_path / "index"), Looked(SampleOptions(rows=40, duplicates_above=0.9999, pairs=100)))
    (section,) = found.vectors
    assert (section.duplicates.among, section.duplicates.compared) == (400, 40)
    for pair in section.duplicates.pairs:
        numbers = [int(entry.name.removeprefix("row-")) for entry in (pair.first, pair.second)]
        assert abs(numbers[0] - numbers[1]) == 200
    sampled = {entry.position % 200 for entry in section.sample.entries}
    assert {pair.first.position % 200 for pair in section.duplicates.pairs} == sampled
    said = text_of(page_of(tmp_path, tmp_path / "index"))
    assert "recall@10" in said and "IVF8,Flat" in said and "The job" not in said


# The command


def test_the_command_of_the_docs_runs(tmp_path: Path, monkeypatch) -> None:
    page = (DOCS / "report.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"```sh\n(.*?)\n```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    do("demo-output/beam", write_pictures(tmp_path / "in"), None, spec=SPEC)
    assert run(*shlex.split(command)[1:]) == 0
    assert "Near-duplicates" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_page_is_named_after_its_folder_and_shows_the_whole_path(tmp_path: Path) -> None:
    write_plain(tmp_path / "nightly" / "v.parquet", clustered(20))
    page = page_of(tmp_path, f"{tmp_path / 'nightly'}/")
    assert "<title>nightly – clipmill report</title>" in page and str(tmp_path / "nightly") in text_of(page)


def test_a_map_of_pictures_and_texts_names_both_in_its_legend(tmp_path: Path) -> None:
    texts = lines(tmp_path / "texts.jsonl", {"id": "t", "text": "a caption"})
    pictures = write_pictures(tmp_path / "in")
    for inputs, legend in (((pictures, texts), ["pictures", "texts"]), ((texts,), [])):
        output = tmp_path / str(len(inputs))
        do_job(str(output), *inputs, spec=SPEC)
        shown = map_plot(look(output).vectors[0]).legend
        assert sorted(item.label.value for one in shown if one.visible for item in one.items) == legend


def test_the_page_asks_for_nothing_elsewhere(tmp_path: Path) -> None:
    """No address but in the policy that forbids them, in Bokeh's own code, and in names."""
    page = page_of(tmp_path, write_plain(tmp_path / "in" / "v.parquet", clustered(20)))
    mine = re.sub(r"<script nonce.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)[^"')\s>]+""", mine)
    assert "default-src 'none'" in mine


def test_an_older_report_is_replaced_and_nothing_else(tmp_path: Path, capsys) -> None:
    path = write_plain(tmp_path / "in" / "v.parquet", clustered(5))
    page_of(tmp_path, path)
    page_of(tmp_path, path)
    (tmp_path / "mine.html").write_text("mine")
    assert run("report", path, "-o", tmp_path / "mine.html") == 2
    assert "is no report of clipmill" in capsys.readouterr().err
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert run("report", path, "-o", tmp_path / "mine.html", "--overwrite") == 0
    assert run("report", path, "-o", tmp_path) == 2
    assert "is a directory" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--column", "id"), "no column of vectors"), (("--text-column", "nix"), "no column 'nix'")],
)
def test_columns_that_are_not_there_are_refused(tmp_path: Path, capsys, options: tuple, words: str) -> None:
    path = write_plain(tmp_path / "v.parquet", clustered(3), id=["a", "b", "c"])
    assert run("report", path, "-o", tmp_path / "r.html", *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_what_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        look(tmp_path / "nowhere")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DatasetError, match=r"cut\.parquet"):
        look(tmp_path / "cut.parquet")


def test_without_bokeh_the_command_says_what_to_install(tmp_path: Path, monkeypatch, capsys) -> None:
    pages = ("clipmill.reports.page", "clipmill.reports.plots")
    for name in [name for name in sys.modules if name.partition(".")[0] == "bokeh" or name in pages]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("page", "plots"):
        monkeypatch.delattr(sys.modules["clipmill.reports"], name, raising=False)
    monkeypatch.setitem(sys.modules, "bokeh", None)
    path = write_plain(tmp_path / "v.parquet", clustered(3))
    assert run("report", path, "-o", tmp_path / "r.html") == 1
    assert "pip install 'clipmill[report]'" in capsys.readouterr().err


def test_the_bars_of_the_page_are_the_histograms(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "v.parquet", clustered(60))
    section = look(path).vectors[0]
    data = re.findall(r'data-plot="(plot-\d)">(.*?)</script>', page_of(tmp_path, path), re.DOTALL)
    lengths = json.loads(dict(data)["plot-2"])
    tops = [array for name, array in _columns_of(lengths) if name == "top"]
    assert section.norms is not None and section.norms.total == 60
    assert [_decoded(array) for array in tops] == [section.norms.counts.tolist()]


def _columns_of(item: object) -> list:
    """Return the columns of the data sources anywhere in a plot's JSON, by name."""
    if isinstance(item, dict):
        own = item["entries"] if item.get("type") == "map" else []
        return own + [pair for value in item.values() for pair in _columns_of(value)]
    return [pair for value in item for pair in _columns_of(value)] if isinstance(item, list) else []


def _decoded(array: dict) -> list:
    """Return the numbers of an array as Bokeh writes it."""
    return np.frombuffer(gzip.decompress(base64.b64decode(array["array"]["data"])), array["dtype"]).tolist()


@every_list
def test_vectors_texts_and_scores_are_found_in_lists_of_every_kind(tmp_path: Path, list_of) -> None:
    both = {"cosine": 0.5, "clip_score": 0.25}
    columns = {
        "vector": pa.array([[1.0, 2.0]], list_of(pa.float32())),
        "vectors": pa.array([[[1.0, 2.0], [3.0, 4.0]]], list_of(list_of(pa.float32()))),
        "ranked": pa.array([[both, both]], list_of(pa.struct(dict.fromkeys(both, pa.float64())))),
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    found = look(tmp_path / "in.parquet")
    assert [(one.column.name, len(one.sample.entries)) for one in found.vectors] == [("vector", 1), ("vectors", 1)]
    (scores,) = found.scores
    assert (scores.rows, scores.values) == (1, 2)
    texts = pa.schema({"texts": list_of(pa.string()), "texts_embedding": list_of(list_of(pa.float32()))})
    job = {"columns": {"texts": {"output": "texts_embedding", "modality": "text"}}}
    assert content_of("texts_embedding", texts, job).text == "texts"
