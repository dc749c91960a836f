"""Files of hub repositories: a copy is used if it is whole, what is fetched is compared with its hash."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from click.testing import CliRunner
from hub_cache import COMMIT, put_repository

from clipmill.encoders import EncoderSpec
from clipmill.encoders.catalog import resolve_model
from clipmill.encoders.catalog.tables import weights
from clipmill.encoders.downloads import elsewhere, hub
from clipmill.encoders.errors import WeightsError
from clipmill.encoders.towers import find_source
from clipmill.encoders.towers import open_clip as towers
from clipmill.pipelines.cli import cli

CONTENT = b"weights" * 10_000
NAME = "open_clip_model.safetensors"


class Hub:
    """The two requests that the hub's library makes for a file: what it is, and its bytes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.served: list[str] = []
        self.corrupt = False

    def __enter__(self) -> Hub:
        files = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None: ...

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                files.served.append(self.path)
                self._answer(with_body=True)

            def _answer(self, *, with_body: bool) -> None:
                content = files.files.get(self.path.replace(f"/resolve/{COMMIT}/", "/resolve/main/"))
                self.send_response(404 if content is None else 200)
                body = content or b""
                if content is None:
                    self.send_header("X-Error-Code", "EntryNotFound")
                else:
                    self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if with_body:
                    self.wfile.write(bytes(byte ^ 1 for byte in body) if files.corrupt else body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def put(self, repository: str, name: str, content: bytes) -> None:
        self.files[f"/{repository}/resolve/main/{name}"] = content


@pytest.fixture
def server(monkeypatch):
    with Hub() as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield server


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path: Path) -> Path:
    """An empty home, and an empty cache of the hub's library."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "home"


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def test_a_file_is_fetched_once_into_our_cache(server: Hub, cache: str) -> None:
    """The second call asks nobody."""
    server.put("org/model", NAME, CONTENT)
    path = hub.fetch_file("org/model", NAME, cache)
    assert path.read_bytes() == CONTENT and path.is_relative_to(Path(cache, "huggingface"))
    asked = list(server.served)
    assert hub.fetch_file("org/model", NAME, cache) == path and server.served == asked


def test_what_arrives_damaged_is_no_file(server: Hub, cache: str) -> None:
    """The library compares no hashes; here a damaged file is fetched again, then refused, and nothing is left."""
    server.put("org/model", NAME, CONTENT)
    server.corrupt = True
    with pytest.raises(WeightsError, match=r"arrived twice from http://127.*another hash than announced"):
        hub.fetch_file("org/model", NAME, cache)
    assert len(server.served) == 2
    assert hub.find_file("org/model", NAME, cache) is None
    server.corrupt = False
    assert hub.fetch_file("org/model", NAME, cache).read_bytes() == CONTENT


def test_files_that_a_repository_does_not_have(server: Hub, cache: str) -> None:
    """None where it may be missing, an error where it may not."""
    assert hub.fetch_optional_file("org/model", "none.json", cache) is None
    with pytest.raises(WeightsError, match=r"'none\.json' could not be fetched: there is no such file in 'org/model'"):
        hub.fetch_file("org/model", "none.json", cache)
    with pytest.raises(
        WeightsError, match=r"has neither open_clip_model\.safetensors nor open_clip_pytorch_model\.bin"
    ):
        hub.fetch_weights("org/model", cache)
    server.put("org/model", "open_clip_pytorch_model.bin", CONTENT)
    assert hub.fetch_weights("org/model", cache).name == "open_clip_pytorch_model.bin"


@pytest.mark.parametrize("large", [True, False], ids=["sha256", "git"])
def test_the_librarys_own_cache_is_used_if_whole(large: bool, cache: str, tmp_path: Path, caplog) -> None:
    """`HF_HOME` serves; a damaged copy in it is not used, and said."""
    folder = put_repository(tmp_path / "hf", "org/model", {NAME: CONTENT}, large=(NAME,) if large else ())
    assert hub.fetch_file("org/model", NAME, cache) == folder / NAME
    (folder / NAME).resolve().write_bytes(CONTENT[::-1])
    with caplog.at_level(logging.WARNING, logger="clipmill"), pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        hub.fetch_file("org/model", NAME, cache)
    assert f"{folder / NAME} is not used" in caplog.text


def test_offline_names_host_repository_and_caches(cache: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        hub.fetch_file("org/model", NAME, cache)
    for part in ("huggingface.co", "'org/model'", NAME, str(Path(cache, "huggingface")), str(tmp_path / "hf")):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"no": "model"}'])
def test_configurations_that_describe_no_model(content: bytes, cache: str) -> None:
    put_repository(Path(cache), "org/model", {"open_clip_config.json": content})
    with pytest.raises(WeightsError, match=r"no JSON|no 'model_cfg'"):
        hub.fetch_config("org/model", cache)


def test_published_weights_are_taken_from_where_they_are(cache: str, home: Path, tmp_path: Path, monkeypatch) -> None:
    """The hub's caches first, then OpenAI's folder, then clip-as-service's names in it; each only if it is right."""
    table = {**weights()["ViT-B-32"]}
    table["openai"] = {**table["openai"], "sha256": hashlib.sha256(CONTENT).hexdigest()}
    monkeypatch.setitem(weights(), "ViT-B-32", table)
    name, _ = elsewhere.CLIP_AS_SERVICE["ViT-B-32", "laion2b_s34b_b79k"]
    md5 = hashlib.md5(CONTENT).hexdigest()
    monkeypatch.setitem(elsewhere.CLIP_AS_SERVICE, ("ViT-B-32", "laion2b_s34b_b79k"), (name, md5))
    openai, laion = resolve_model("ViT-B-32"), resolve_model("ViT-B-32::laion2b-s34b-b79k")
    folder = home / ".cache" / "clip"
    folder.mkdir(parents=True)
    for file in ("ViT-B-32.pt", name):
        (folder / file).write_bytes(CONTENT)
    assert towers.download(openai, cache) == folder / "ViT-B-32.pt"
    assert towers.download(laion, cache) == folder / name
    snapshot = put_repository(tmp_path / "hf", table["openai"]["hub"].strip("/"), {NAME: CONTENT}, large=(NAME,))
    assert towers.download(openai, cache) == snapshot / NAME
    (folder / name).write_bytes(CONTENT[::-1])
    with pytest.raises(WeightsError, match="laion/CLIP-ViT-B-32-laion2B-s34B-b79K"):
        towers.download(laion, cache)


def test_the_publishers_url_stands_in_for_the_hub(cache: str, monkeypatch, caplog) -> None:
    """Where the hub cannot be reached; and that is logged, since the file is another."""
    asked = []
    monkeypatch.setattr(towers, "fetch_url", lambda url, **options: asked.append((url, options)) or Path("here"))
    with caplog.at_level(logging.WARNING, logger="clipmill"):
        assert towers.download(resolve_model("ViT-B-32"), cache) == Path("here")
    ((url, options),) = asked
    assert url.endswith(f"/{options['sha256']}/ViT-B-32.pt") and f"trying {url}" in caplog.text


def test_the_second_of_the_plus_240s_weights_come_by_url(cache: str, monkeypatch) -> None:
    """open_clip's table names the first's repository for both tags."""
    asked = []
    monkeypatch.setattr(towers, "fetch_url", lambda url, **options: asked.append((url, options)) or Path("here"))
    assert towers.download(resolve_model("ViT-B-16-plus-240::laion400m_e32"), cache) == Path("here")
    ((url, options),) = asked
    assert url.endswith("/vit_b_16_plus_240-laion400m_e32-699c4b84.pt") and options["sha256"] == "699c4b84"


def test_a_model_is_downloaded_beforehand(server: Hub, cache: str) -> None:
    """`clipmill models --download` fetches all that a job needs, and says where it is."""
    config = {"embed_dim": 8, "vision_cfg": {"image_size": 32}, "text_cfg": {"context_length": 20}}
    server.put("org/model", "open_clip_config.json", json.dumps({"model_cfg": config}).encode())
    server.put("org/model", NAME, CONTENT)
    done = CliRunner().invoke(cli, ["models", "--download", "hf-hub:org/model", "--cache-dir", cache, "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert [Path(path).name for path in printed["files"]] == ["open_clip_config.json", NAME]
    assert printed["weights_sha256"] == hashlib.sha256(CONTENT).hexdigest() and printed["bytes"] == len(CONTENT)
    server.files.clear()
    source = find_source(EncoderSpec("hf-hub:org/model", cache_dir=cache))
    assert [str(path) for path in source.files] == printed["weights"]
