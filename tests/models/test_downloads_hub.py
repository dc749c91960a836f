"""Files of hub repositories: a complete copy is used, and a fetched file is checked against its hash."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
from click.testing import CliRunner
from file_server import FileServer
from hub_cache import COMMIT, git_hash, put_repository
from hub_server import Hub

from clipmill.encoders import EncoderSpec
from clipmill.errors import WeightsError
from clipmill.files.retries import RetryPolicy
from clipmill.models.catalog import resolve_model
from clipmill.models.catalog.tables import weights
from clipmill.models.downloads import elsewhere, hub, repository, transfer
from clipmill.models.progress import observed_by
from clipmill.models.towers import find_source
from clipmill.models.towers import open_clip as towers
from clipmill.pipelines.cli import cli

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
NAME = "open_clip_model.safetensors"


@pytest.fixture
def server(monkeypatch):
    with Hub() as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield server


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path: Path) -> Path:
    """An empty home directory, and an empty cache of the hub's library."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(transfer, "RETRIES", RetryPolicy(attempts=3, pause_s=0.01))
    monkeypatch.setattr(transfer, "STALL_S", 0.5)
    return tmp_path / "home"


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def test_a_file_is_fetched_once_into_our_cache(server: Hub, cache: str) -> None:
    """The second call makes no request."""
    server.put("org/model", NAME, CONTENT)
    path = hub.fetch_file("org/model", NAME, cache)
    assert path.read_bytes() == CONTENT and path.is_relative_to(Path(cache, "huggingface"))
    asked = list(server.served)
    assert hub.fetch_file("org/model", NAME, cache) == path and server.served == asked


@pytest.mark.parametrize("large", [True, False], ids=["sha256", "git"])
def test_a_damaged_download_is_refused(large: bool, server: Hub, cache: str) -> None:
    """Nothing is left that could be mistaken for the file."""
    with FileServer(CONTENT, "corrupt") as storage:
        server.put("org/model", NAME, CONTENT, storage if large else None)
        server.corrupt = True
        announced = SHA256 if large else git_hash(CONTENT)
        with pytest.raises(
            WeightsError, match=rf"from http://127.*does not have the hash that the hub announced \({announced}"
        ):
            hub.fetch_file("org/model", NAME, cache)
        assert hub.find_file("org/model", NAME, cache) is None
        left = [path for path in Path(cache).rglob("*") if path.is_file() or path.is_symlink()]
        assert all(path.suffix in (".lock", ".json") for path in left)
        server.corrupt = False
        assert hub.fetch_file("org/model", NAME, cache).read_bytes() == CONTENT


def test_files_that_a_repository_does_not_have(server: Hub, cache: str) -> None:
    """None for an optional file, an error for a required one."""
    assert hub.fetch_optional_file("org/model", "none.json", cache) is None
    with pytest.raises(WeightsError, match=r"'none\.json' could not be fetched: 'org/model' has no such file"):
        hub.fetch_file("org/model", "none.json", cache)
    with pytest.raises(
        WeightsError, match=r"has neither open_clip_model\.safetensors nor open_clip_pytorch_model\.bin"
    ):
        hub.fetch_weights("org/model", cache)
    server.put("org/model", "open_clip_pytorch_model.bin", CONTENT)
    assert hub.fetch_weights("org/model", cache).name == "open_clip_pytorch_model.bin"


@pytest.mark.parametrize("large", [True, False], ids=["sha256", "git"])
def test_the_cache_of_the_library_is_used_if_complete(large: bool, cache: str, tmp_path: Path, caplog) -> None:
    """Copies in `HF_HOME` are used; a damaged one is logged and not used."""
    folder = put_repository(tmp_path / "hf", "org/model", {NAME: CONTENT}, large=(NAME,) if large else ())
    assert hub.fetch_file("org/model", NAME, cache) == folder / NAME
    (folder / NAME).resolve().write_bytes(CONTENT[::-1])
    with caplog.at_level(logging.WARNING, logger="clipmill"), pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        hub.fetch_file("org/model", NAME, cache)
    assert f"{folder / NAME} is not used" in caplog.text


def test_shared_files_of_the_library_are_recognised(cache: str, tmp_path: Path) -> None:
    """The library may make a blob a link to a file that several repositories share, with another kind of name."""
    folder = put_repository(tmp_path / "hf", "org/model", {NAME: CONTENT}, large=(NAME,))
    blob, shared = (folder / NAME).resolve(), tmp_path / "hf" / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    assert hub.fetch_file("org/model", NAME, cache) == folder / NAME
    shared.write_bytes(CONTENT[::-1])
    assert hub.find_file("org/model", NAME, cache) is None


@pytest.mark.parametrize("large", [True, False], ids=["sha256", "git"])
def test_the_hubs_library_reads_what_was_fetched(large: bool, server: Hub, cache: str, monkeypatch) -> None:
    """It finds the file offline, by branch and by commit, and finds no faults in the cache."""
    with FileServer(CONTENT) as storage:
        server.put("org/model", "onnx/model.onnx", CONTENT, storage if large else None)
        path = hub.fetch_file("org/model", "onnx/model.onnx", cache)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = Path(cache, "huggingface")
    for revision in (None, "main", COMMIT):
        found = huggingface_hub.hf_hub_download("org/model", "onnx/model.onnx", revision=revision, cache_dir=folder)
        assert Path(found) == path
    scanned = huggingface_hub.scan_cache_dir(folder)
    assert not scanned.warnings and [repo.repo_id for repo in scanned.repos] == ["org/model"]
    assert os.readlink(path) == f"../../../blobs/{SHA256 if large else git_hash(CONTENT)}"


def test_a_redirect_on_the_hub_itself_keeps_the_token(server: Hub, cache: str, monkeypatch) -> None:
    """A private repository that was renamed is only readable with the token."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.renamed["org/old"] = "org/model"
    server.put("org/model", NAME, CONTENT)
    assert hub.fetch_file("org/old", NAME, cache).read_bytes() == CONTENT
    assert [(method, token) for method, path, token in server.requests if path.startswith("/org/model/")] == [
        ("HEAD", "Bearer hf_secret"),
        ("GET", "Bearer hf_secret"),
        ("HEAD", "Bearer hf_secret"),
    ]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", r"is gated: accept its terms at http://127.*/org/model, and set HF_TOKEN"),
        (401, "RepoNotFound", r"there is no repository at http://127.*/org/model, or it is private"),
        (404, "RevisionNotFound", r"the repository has no revision 'v9'"),
        (404, "", r"the server answered with status 404"),
        (403, "", r"the server answered with status 403"),
    ],
)
def test_refusals_are_clear_and_final(status: int, code: str, message: str, server: Hub, cache: str) -> None:
    """One request; the message has host, repository, file and the path for a manual copy, which is then used."""
    server.refusals = [(status, code)]
    with pytest.raises(WeightsError, match=message) as caught:
        hub.fetch_file("org/model@v9", NAME, cache)
    assert len(server.requests) == 1
    place = Path(cache, "huggingface", "models--org--model", "snapshots", "v9", NAME)
    for part in (server.address, "'org/model'", repr(NAME), f"put the file at {str(place)!r}"):
        assert part in str(caught.value)
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert hub.fetch_file("org/model@v9", NAME, cache) == place


def test_a_busy_hub_is_retried(server: Hub, cache: str) -> None:
    """A few times; then the error has the number of attempts."""
    server.put("org/model", NAME, CONTENT)
    server.refusals = [(503, ""), (429, "")]
    assert hub.fetch_file("org/model", NAME, cache).read_bytes() == CONTENT
    server.refusals = [(503, "")] * 3
    with pytest.raises(WeightsError, match="gave up after 3 attempts in a row: status 503"):
        hub.fetch_file("org/model", "other.json", cache)


def test_an_unreachable_hub(server: Hub, cache: str, monkeypatch) -> None:
    """After some attempts it fails with host, repository and file."""
    with FileServer(CONTENT) as gone:
        address = gone.address
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(WeightsError, match=rf"'{NAME}' of 'org/model' could not be fetched from {address}: gave up"):
        hub.fetch_file("org/model", NAME, cache)


def test_missing_files_of_a_repository_are_known_offline(server: Hub, cache: str, monkeypatch) -> None:
    """A job that was prepared online runs offline, also with optional files."""
    server.put("org/model", NAME, CONTENT)
    hub.fetch_file("org/model", NAME, cache)
    assert hub.fetch_optional_file("org/model", "tokenizer.json", cache) is None
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch_optional_file("org/model", "tokenizer.json", cache) is None
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        hub.fetch_optional_file("org/model", "never-asked-for.json", cache)


def test_observers_get_the_name_of_the_file(server: Hub, cache: str) -> None:
    """Not that of its blob; and a resumed transfer starts at its offset."""
    heard: list[tuple] = []

    class Listener:
        def started(self, name: str, done: int, total: int | None) -> None:
            heard.append((name, done, total))

        def advanced(self, name: str, count: int) -> None:
            assert name == NAME

        def finished(self, name: str, path: Path) -> None:
            heard.append((name, path.name))

    with FileServer(CONTENT, "cut") as storage, observed_by(Listener()):
        server.put("org/model", NAME, CONTENT, storage)
        hub.fetch_file("org/model", NAME, cache)
    assert heard == [(NAME, 0, len(CONTENT)), (NAME, HALF, len(CONTENT)), (NAME, NAME)]


@pytest.mark.parametrize("damaged", [True, False])
def test_a_file_of_a_revision_that_moves_meanwhile_is_verified(
    damaged: bool, server: Hub, cache: str, monkeypatch
) -> None:
    """Another version is published between the download and its publishing in the cache: the library fetches it."""
    fetch_blob = repository._fetch_blob

    def publish_another_after(*arguments) -> None:
        fetch_blob(*arguments)
        server.put("org/model", NAME, CONTENT[::-1])
        server.corrupt = damaged

    monkeypatch.setattr(repository, "_fetch_blob", publish_another_after)
    server.put("org/model", NAME, CONTENT)
    if damaged:
        with pytest.raises(WeightsError, match="does not have the hash that the hub announced"):
            hub.fetch_file("org/model", NAME, cache)
        assert hub.find_file("org/model", NAME, cache) is None
    else:
        assert hub.fetch_file("org/model", NAME, cache).read_bytes() == CONTENT[::-1]


def test_a_missing_file_does_not_move_the_revision(server: Hub, cache: str) -> None:
    """Files of the cached commit are still found."""
    folder = put_repository(Path(cache, "huggingface"), "org/model", {NAME: CONTENT})
    older = folder.rename(folder.with_name("f" * 40))
    (folder.parents[1] / "refs" / "main").write_text(older.name)
    assert hub.fetch_optional_file("org/model", "none.json", cache) is None
    assert hub.find_file("org/model", NAME, cache) == older / NAME


def test_a_missing_file_needs_no_writable_cache(server: Hub, tmp_path: Path) -> None:
    """Only the note is lost."""
    (tmp_path / "file").write_text("not a folder")
    assert hub.fetch_optional_file("org/model", "none.json", str(tmp_path / "file")) is None


@pytest.mark.parametrize("repository", ["org/model@../../x", "org/model@/etc"])
def test_names_stay_inside_the_cache(repository: str, server: Hub, cache: str) -> None:
    with pytest.raises(WeightsError, match="is not a valid path in the repository"):
        hub.fetch_file(repository, NAME, cache)
    assert server.requests == []


def test_offline_error_has_host_repository_and_caches(cache: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        hub.fetch_file("org/model", NAME, cache)
    for part in ("huggingface.co", "'org/model'", NAME, str(Path(cache, "huggingface")), str(tmp_path / "hf")):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"no": "model"}'])
def test_invalid_configurations_are_refused(content: bytes, cache: str) -> None:
    put_repository(Path(cache), "org/model", {"open_clip_config.json": content})
    with pytest.raises(WeightsError, match=r"not valid JSON|no 'model_cfg'"):
        hub.fetch_config("org/model", cache)


def test_a_repository_of_transformers_is_named_otherwise(server: Hub, cache: str) -> None:
    """The error has the name that loads it."""
    server.put("org/model", "config.json", b'{"model_type": "siglip"}')
    with pytest.raises(WeightsError, match=r"no open_clip_config\.json.*'hf:org/model'"):
        hub.fetch_config("org/model", cache)


def test_published_weights_are_used_in_place(cache: str, home: Path, tmp_path: Path, monkeypatch) -> None:
    """The hub's caches first, then OpenAI's folder, then clip-as-service's names in it; each if its hash is right."""
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


def test_the_publishers_url_replaces_an_unreachable_hub(cache: str, monkeypatch, caplog) -> None:
    """It is logged, since the file is another one."""
    asked = []
    monkeypatch.setattr(towers, "fetch_url", lambda url, **options: asked.append((url, options)) or Path("here"))
    with caplog.at_level(logging.WARNING, logger="clipmill"):
        assert towers.download(resolve_model("ViT-B-32"), cache) == Path("here")
    ((url, options),) = asked
    assert url.endswith(f"/{options['sha256']}/ViT-B-32.pt") and f"trying {url}" in caplog.text


def test_the_second_weights_of_the_plus_240_are_fetched_by_url(cache: str, monkeypatch) -> None:
    """open_clip's table has the repository of the first for both tags."""
    asked = []
    monkeypatch.setattr(towers, "fetch_url", lambda url, **options: asked.append((url, options)) or Path("here"))
    assert towers.download(resolve_model("ViT-B-16-plus-240::laion400m_e32"), cache) == Path("here")
    ((url, options),) = asked
    assert url.endswith("/vit_b_16_plus_240-laion400m_e32-699c4b84.pt") and options["sha256"] == "699c4b84"


def test_a_model_is_downloaded_in_advance(server: Hub, cache: str) -> None:
    """`clipmill models --download` fetches everything that a job needs, and prints its path."""
    config = {"embed_dim": 8, "vision_cfg": {"image_size": 32}, "text_cfg": {"context_length": 20}}
    server.put("org/model", "open_clip_config.json", json.dumps({"model_cfg": config}).encode())
    server.put("org/model", NAME, CONTENT)
    done = CliRunner().invoke(cli, ["models", "--download", "hf-hub:org/model", "--cache-dir", cache, "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert [Path(path).name for path in printed["files"]] == ["open_clip_config.json", NAME]
    assert printed["weights_sha256"] == SHA256 and printed["bytes"] == len(CONTENT)
    server.files.clear()
    source = find_source(EncoderSpec("hf-hub:org/model", cache_dir=cache))
    assert [str(path) for path in source.files] == printed["weights"]
