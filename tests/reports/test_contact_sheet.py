"""The contact sheet of `clipmill search --html`: one page that needs nothing, thumbnails in it, no stranger's HTML."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run
from http_server import LoopbackServer
from index_helpers import DIM, write_dataset
from pictures import encode
from PIL import Image
from report_helpers import page_of
from tar_files import tar_bytes, write_tar

from clipmill.encoders.testing import fake_image_vector
from clipmill.indexes.build import IndexOptions, build_index

MODEL = f"fake::dim={DIM}"
SCRIPT = "<script>alert(1)</script>"
QUOTES = "\"'><img src=x onerror=alert(2)>"


class Seen(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.images += [value or "" for name, value in attrs if tag == "img" and name == "src"]
        self.links += [value or "" for name, value in attrs if tag == "a" and name == "href"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def picture(number: int) -> np.ndarray:
    return np.full((40, 60 + number, 3), 20 * number, np.uint8)


def shade_of(data_uri: str) -> int:
    """Return which of the pictures a thumbnail shows."""
    image = Image.open(io.BytesIO(base64.b64decode(data_uri.partition(",")[2])))
    return round(float(np.asarray(image).mean()) / 20)


@pytest.fixture
def photos(tmp_path) -> Path:
    """A dataset that a job made of a folder of pictures."""
    (tmp_path / "photos").mkdir()
    for number in range(4):
        (tmp_path / "photos" / f"{number}.png").write_bytes(encode(picture(number)))
    assert run("embed", tmp_path / "photos", "-o", tmp_path / "data", "--model", MODEL) == 0
    return tmp_path / "data"


def sheet(tmp_path: Path, *arguments: object) -> Seen:
    page = tmp_path / "page.html"
    assert run("search", *arguments, "--html", page) == 0
    return Seen(page.read_text(encoding="utf-8"))


def test_hits_of_a_job_on_files_are_seen(photos, tmp_path, capsys) -> None:
    """Thumbnails in order, as data: URIs of the right pictures; nothing is asked of anybody, and nothing runs."""
    query = tmp_path / "photos" / "2.png"
    seen = sheet(tmp_path, photos, "--image", query, "-k", 4, "--rerank")
    assert "contact sheet:" in capsys.readouterr().err
    own, *hits = seen.images
    assert len(hits) == 4 and all(one.startswith("data:image/jpeg;base64,") for one in seen.images)
    decoded = [Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))) for one in (own, hits[0])]
    for one in decoded:
        assert one.size == (62, 40) and abs(int(np.asarray(one).mean()) - 40) <= 2
    assert "2.png" in seen.text and "clip_score" in seen.text and "cosine" in seen.text
    assert not {"script", "iframe", "object", "link rel=stylesheet"} & set(seen.tags)
    assert seen.links == ["#main"]
    assert not [name for name in seen.attributes if name.startswith("on")]
    page = (tmp_path / "page.html").read_text()
    assert "default-src 'none'; img-src data:" in page and not re.search(r"https?://", page)


def test_an_index_of_such_datasets_is_seen_too(photos, tmp_path) -> None:
    build_index([str(photos)], str(tmp_path / "index"), IndexOptions(factory="Flat", queries=2))
    assert len(sheet(tmp_path, tmp_path / "index", "--image", tmp_path / "photos" / "0.png", "-k", 4).images) == 5


def test_strangers_words_stay_words(tmp_path) -> None:
    """In ids, texts, URIs, columns, and the query itself."""
    vectors = [fake_image_vector(picture(n), DIM) for n in range(3)]
    directory = write_dataset(
        tmp_path / "data",
        vectors,
        ids=[f"{SCRIPT}/{n}{SCRIPT}" for n in range(3)],
        text=[SCRIPT, None, QUOTES],
        note=[QUOTES, SCRIPT, "javascript:alert(3)"],
    )
    seen = sheet(tmp_path, directory, f"{SCRIPT}{QUOTES}", "--prompt", "{}", "-k", 3, "--columns", "note,uri,text")
    assert not {"script", "iframe"} & set(seen.tags) and not seen.images and seen.links == ["#main"]
    assert "onerror" not in seen.attributes and "href" in seen.attributes  # of the empty icon
    for word in (SCRIPT, QUOTES, "javascript:alert(3)"):
        assert word in seen.text


def test_local_files_that_no_job_was_seen_to_read_are_not_opened(tmp_path) -> None:
    """A stranger's row may name any picture of this machine; the user may allow it."""
    (tmp_path / "secret.png").write_bytes(encode(picture(1)))
    vectors = [fake_image_vector(picture(n), DIM) for n in range(2)]
    directory = write_dataset(
        tmp_path / "data", vectors, uri=[str(tmp_path / "secret.png"), str(tmp_path / "gone.png")]
    )
    seen = sheet(tmp_path, directory, "x", "-k", 2)
    assert not seen.images and seen.text.count("--allow-local-files opens it") == 2
    seen = sheet(tmp_path, directory, "x", "-k", 2, "--allow-local-files")
    assert len(seen.images) == 1 and "not_found:" in seen.text


def test_a_job_that_listed_files_may_be_told_not_to_show_them(photos, tmp_path) -> None:
    seen = sheet(tmp_path, photos, "x", "-k", 2, "--no-allow-local-files")
    assert not seen.images and "--allow-local-files opens it" in seen.text


def test_texts_are_shown_as_texts_whatever_uri_they_have(tmp_path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "a", "text": "a cat", "uri": str(tmp_path / "secret.png")}))
    (tmp_path / "secret.png").write_bytes(encode(picture(1)))
    assert run("embed", tmp_path / "in.jsonl", "-o", tmp_path / "data", "--model", MODEL, "--allow-local-files") == 0
    seen = sheet(tmp_path, tmp_path / "data", "x", "-k", 1)
    assert not seen.images and "a cat" in seen.text


def test_samples_of_one_key_in_several_tars_are_told_apart(tmp_path, capsys) -> None:
    """By the row that is said, and by their pictures: a row says in which archive they are, and where."""
    for name, shades in (("a.tar", (1, 2)), ("b.tar", (3, 4))):
        write_tar(tmp_path / name, [(f"{n}.png", encode(picture(shade))) for n, shade in enumerate(shades)])
    assert run("embed", tmp_path / "a.tar", tmp_path / "b.tar", "-o", tmp_path / "data", "--model", MODEL) == 0
    capsys.readouterr()
    seen = sheet(tmp_path, tmp_path / "data", "x", "-k", 4)
    assert all(f"{key} (row {row})" in seen.text for row, key in enumerate("0101"))
    assert sorted(map(shade_of, seen.images)) == [1, 2, 3, 4]
    header, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header == ["place", "score", "id", "position"]
    assert sorted((row[3], row[2]) for row in rows) == [("0", "0"), ("1", "1"), ("2", "0"), ("3", "1")]
    one = sheet(tmp_path, tmp_path / "data", "x", "-k", 1)
    assert "(row" not in one.text and "4 rows" in one.text


@pytest.mark.parametrize("column", [(), ("--column", "image=image", "--drop", "image")])
def test_samples_of_tars_are_seen_again_in_datasets_indexes_and_reports(tmp_path, column) -> None:
    """Of an archive that is compressed, gone or shorter, and of a stranger's row, the reason is said instead."""
    write_tar(tmp_path / "a.tar", [(f"{n}.png", encode(picture(n))) for n in range(3)])
    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(gzip.compress(tar_bytes([("3.png", encode(picture(3)))])))
    inputs = [tmp_path / "a.tar", packed]
    assert run("embed", *inputs, "-o", tmp_path / "data", "--model", MODEL, *column) == 0
    build_index([str(tmp_path / "data")], str(tmp_path / "index"), IndexOptions(factory="Flat", queries=2))
    for place in ("data", "index"):
        seen = sheet(tmp_path, tmp_path / place, "x", "-k", 4)
        assert sorted(map(shade_of, seen.images)) == [0, 1, 2]
    assert "data:image/jpeg" in page_of(tmp_path, tmp_path / "data")
    refused = sheet(tmp_path, tmp_path / "data", "x", "-k", 4, "--no-allow-local-files")
    assert not refused.images and refused.text.count("--allow-local-files opens it") == 3
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:600])
    cut = sheet(tmp_path, tmp_path / "data", "x", "-k", 4)
    assert not cut.images and "changed:" in cut.text
    (tmp_path / "a.tar").unlink()
    assert "not_found:" in sheet(tmp_path, tmp_path / "data", "x", "-k", 4).text


def test_pictures_from_elsewhere_only_where_asked_and_allowed(tmp_path) -> None:
    """By the fetch policy of every other fetch: private addresses are refused unless allowed."""
    with LoopbackServer() as server:
        server.files["/broken.png"] = (b"no picture", "image/png")
        vectors = [fake_image_vector(picture(n), DIM) for n in range(3)]
        uris = [server.url(path) for path in ("/photo.jpg", "/broken.png", "/missing.png")]
        directory = write_dataset(tmp_path / "data", vectors, uri=uris)
        seen = sheet(tmp_path, directory, "x", "-k", 3)
        assert not seen.images and seen.text.count("--fetch-remote fetches it") == 3
        seen = sheet(tmp_path, directory, "x", "-k", 3, "--fetch-remote")
        assert not seen.images and seen.text.count("forbidden_uri:") == 3
        seen = sheet(tmp_path, directory, "x", "-k", 3, "--fetch-remote", "--allow-private-addresses")
        assert len(seen.images) == 1 and "undecodable:" in seen.text and "not_found:" in seen.text


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_images_in_the_rows_themselves_are_seen_with_their_captions(tmp_path, kind) -> None:
    """In a dataset; an index keeps no bytes, and the page says where they are."""
    shots = [encode(picture(number)) for number in range(3)]
    photos = shots if kind == "bytes" else [{"bytes": shot, "path": "a.png"} for shot in shots]
    rows = {"id": ["a", "b", "c"], "photo": photos, "text": ["one", "two", "three"]}
    pq.write_table(pa.table(rows), tmp_path / "in.parquet")
    arguments = ["-o", tmp_path / "data", "--model", MODEL, "--column", "photo=image"]
    assert run("embed", tmp_path / "in.parquet", *arguments) == 0
    seen = sheet(tmp_path, tmp_path / "data", "x", "-k", 3)
    assert sorted(map(shade_of, seen.images)) == [0, 1, 2] and "three" in seen.text
    build_index([str(tmp_path / "data")], str(tmp_path / "index"), IndexOptions(factory="Flat", queries=2))
    indexed = sheet(tmp_path, tmp_path / "index", "x", "-k", 3)
    assert not indexed.images and "one" in indexed.text
    pq.write_table(pa.table(rows).drop_columns(["text"]), tmp_path / "in.parquet")
    assert run("embed", tmp_path / "in.parquet", "-o", tmp_path / "plain", *arguments[2:]) == 0
    build_index([str(tmp_path / "plain")], str(tmp_path / "other"), IndexOptions(factory="Flat", queries=2))
    assert sheet(tmp_path, tmp_path / "other", "x", "-k", 3).text.count("search the dataset to see them") == 3


def test_bytes_of_rows_are_in_no_json(tmp_path, capsys) -> None:
    pq.write_table(pa.table({"id": ["a"], "photo": [encode(picture(1))]}), tmp_path / "in.parquet")
    assert (
        run("embed", tmp_path / "in.parquet", "-o", tmp_path / "data", "--model", MODEL, "--column", "photo=image") == 0
    )
    capsys.readouterr()
    assert run("search", tmp_path / "data", "x", "-k", 1, "--json", "--html", tmp_path / "page.html") == 0
    (hit,) = json.loads(capsys.readouterr().out)["queries"][0]["hits"]
    assert set(hit) == {"rank", "position", "id", "score"}


def test_uris_of_a_column_that_the_job_read_are_seen(tmp_path) -> None:
    """data: URIs always, addresses where asked, whatever the column is called."""
    inline = "data:image/png;base64," + base64.b64encode(encode(picture(2))).decode()
    with LoopbackServer() as server:
        server.files["/4.png"] = (encode(picture(4)), "image/png")
        rows = [{"id": "a", "link": server.url("/4.png")}, {"id": "b", "link": inline}]
        (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
        arguments = ["-o", tmp_path / "data", "--model", MODEL, "--column", "link=image", "--allow-private-addresses"]
        assert run("embed", tmp_path / "in.jsonl", *arguments) == 0
        seen = sheet(tmp_path, tmp_path / "data", "x", "-k", 2)
        assert list(map(shade_of, seen.images)) == [2] and "--fetch-remote fetches it" in seen.text
        refused = sheet(tmp_path, tmp_path / "data", "x", "-k", 2, "--fetch-remote")
        assert list(map(shade_of, refused.images)) == [2] and "forbidden_uri:" in refused.text
        seen = sheet(tmp_path, tmp_path / "data", "x", "-k", 2, "--fetch-remote", "--allow-private-addresses")
        assert sorted(map(shade_of, seen.images)) == [2, 4]


def test_a_url_is_a_picture_in_files_of_another_origin(tmp_path) -> None:
    vectors = pa.array([fake_image_vector(picture(1), DIM)])
    inline = "data:image/png;base64," + base64.b64encode(encode(picture(1))).decode()
    pq.write_table(pa.table({"url": [inline], "vector": vectors}), tmp_path / "v.parquet")
    assert list(map(shade_of, sheet(tmp_path, tmp_path / "v.parquet", "x", "-k", 1, "--model", MODEL).images)) == [1]


def test_a_file_that_is_no_image_is_named_by_its_type(tmp_path) -> None:
    rows = {"uri": [str(tmp_path / "a.wav")], "mime_type": ["audio/wav"]}
    pq.write_table(pa.table({**rows, "vector": pa.array([fake_image_vector(picture(1), DIM)])}), tmp_path / "v.parquet")
    seen = sheet(tmp_path, tmp_path / "v.parquet", "x", "-k", 1, "--model", MODEL, "--allow-local-files")
    assert "audio/wav" in seen.text and "not_found" not in seen.text


@pytest.mark.parametrize("kind", ["IMAGE/PNG", "application/octet-stream", ""])
def test_an_image_is_seen_whatever_its_server_called_it(tmp_path, kind: str) -> None:
    inline = "data:image/png;base64," + base64.b64encode(encode(picture(1))).decode()
    rows = {"uri": [inline], "mime_type": [kind], "vector": pa.array([fake_image_vector(picture(1), DIM)])}
    pq.write_table(pa.table(rows), tmp_path / "v.parquet")
    assert list(map(shade_of, sheet(tmp_path, tmp_path / "v.parquet", "x", "-k", 1, "--model", MODEL).images)) == [1]


def test_several_queries_are_linked_and_every_hit_is_named(photos, tmp_path) -> None:
    seen = sheet(tmp_path, photos, SCRIPT, "y", "-k", 2)
    assert seen.links == ["#main", "#query-1", "#query-2"]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<li tabindex") == 4 and not re.search(r'alt=""', page)


def test_names_that_are_addresses_hold_no_secrets(tmp_path) -> None:
    """Of a query and of hits; a slash in a query string ends no name."""
    vectors = pa.array([fake_image_vector(picture(1), DIM)])
    uri = "https://anna:swordfish@host/photos/9.png?X-Amz-Signature=sword/fish&v=1/2"
    pq.write_table(pa.table({"id": [uri], "uri": [uri], "vector": vectors}), tmp_path / "v.parquet")
    inline = "data:image/png;base64," + base64.b64encode(encode(picture(1))).decode()
    with LoopbackServer() as server:
        server.files["/4.png"] = (encode(picture(4)), "image/png")
        asked = server.url("/4.png?token=sword/fish&v=1/2")
        given = ["--image", asked, "--image", inline, "-k", 1, "--model", MODEL, "--allow-private-addresses"]
        seen = sheet(tmp_path, tmp_path / "v.parquet", *given)
    page = html.unescape((tmp_path / "page.html").read_text())
    assert "4.png?token=…&v=1/2" in seen.text and "9.png?X-Amz-Signature=…&v=1/2" in seen.text
    assert "data:image/png;base64,…" in seen.text
    assert not [secret for secret in ("swordfish", "sword/fish", "anna") if secret in page]


def test_a_page_is_written_over_but_nothing_else(photos, tmp_path, capsys) -> None:
    page = tmp_path / "page.html"
    for _ in range(2):
        assert run("search", photos, "x", "-k", 1, "--html", page) == 0
    page.write_text("<p>mine</p>")
    assert run("search", photos, "x", "-k", 1, "--html", page) == 2
    assert "is no contact sheet of clipmill" in capsys.readouterr().err and page.read_text() == "<p>mine</p>"
    assert run("search", photos, "x", "-k", 1, "--html", page, "--overwrite") == 0
    assert run("search", photos, "x", "-k", 1, "--html", tmp_path / "new" / "page.html") == 0
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!DOCTYPE html>")


def test_numbers_and_json_stand_beside_the_page(photos, tmp_path, capsys) -> None:
    assert run("search", photos, "x", "-k", 1, "--json", "--html", tmp_path / "page.html") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["queries"][0]["hits"]) == 1 and (tmp_path / "page.html").exists()


def test_without_jinja_the_message_says_what_to_install(photos, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert run("search", photos, "x", "-k", 1, "--html", tmp_path / "page.html") == 1
    assert "pip install 'clipmill[report]'" in capsys.readouterr().err and not (tmp_path / "page.html").exists()
