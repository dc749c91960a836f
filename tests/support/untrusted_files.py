"""Files of models and indexes by strangers: whole ones, damaged ones, and what is done with them."""

from __future__ import annotations

import collections
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_helpers import DIM, clustered, write_dataset
from odd_values import drawn

from clipmill.encoders import EncoderSpec
from clipmill.errors import ClipmillError, WeightsError
from clipmill.failures import RowError
from clipmill.indexes import opened
from clipmill.indexes.build import IndexOptions, build_index
from clipmill.indexes.manifest import MANIFEST
from clipmill.models import exporting
from clipmill.models.catalog.facts import facts_of
from clipmill.models.catalog.manifest import FILE, write_manifest
from clipmill.models.runtimes.store import Graphs, Store
from clipmill.models.tokenizers.fast import FastTokenizer
from clipmill.models.towers import find_source
from clipmill.models.weight_files import sha256_of

# --- models ----------------------------------------------------------------------------------------------------------

PLAIN_TOKENIZER = {
    "version": "1.0",
    "model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"},
}
TOKENIZER: dict[str, Any] = {
    **PLAIN_TOKENIZER,
    "added_tokens": [{"id": 5, "content": "<s>", "special": True, "single_word": False, "lstrip": False,
                      "rstrip": False, "normalized": False}],
    "normalizer": {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"},
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s"}, "behavior": "Removed", "invert": False},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [5],
        "tokens": ["<s>"]}}},
    "truncation": None, "padding": None, "decoder": None,
}  # fmt: skip


def write_export(folder: Path) -> Path:
    """Write the demo model as `clipmill export` does, with empty graphs, which take no time to make."""
    graphs = folder.with_name(f"{folder.name}-graphs")
    graphs.mkdir(parents=True)
    files = {name: f"{name}.onnx" for name in ("image", "text")}
    for name in files.values():
        (graphs / name).write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "graphs", lambda store, kind: Graphs(graphs, files, kind))
        patch.setattr(exporting, "measure", lambda *given: {"checked_cosine": 1.0})
        exporting.export_model(EncoderSpec("demo"), folder)
    return folder


def sign(folder: Path, **values: Any) -> None:
    """Write a manifest that fits the files of an exported directory, as its author can."""
    manifest = {**json.loads((folder / FILE).read_text()), **values}
    manifest.pop("manifest_sha256"), manifest.pop("format")
    if "files" not in values:
        manifest["files"] = {name: sha256_of(folder / name) for name in manifest["files"]}
    write_manifest(folder, manifest)


def look_at(model: str, **options: Any) -> bool:
    """Read what a model says of itself; return whether it could be read. Any error that is not ours is raised."""
    facts_of.cache_clear()
    try:
        spec = EncoderSpec(model, device="cpu", **options)
        assert isinstance(spec.dim, int) and spec.dim > 0
        find_source(spec)
    except ClipmillError:
        return False
    return True


def fuzz_archives(draw: random.Random, count: int, folder: Path) -> collections.Counter[str]:
    """Read damaged TorchScript archives: whole files, or the pickle or the programs inside."""
    from fuzzing import damaged
    from torchscript_files import Network, changed_archive, write_archive

    from clipmill.models.towers.weights import read_weights

    path = write_archive(Network(), folder / "w.pt")
    whole, pickled = path.read_bytes(), _pickle_of(path)
    seen: collections.Counter[str] = collections.Counter()
    for _ in range(count):
        seen["inputs"] += 1
        match draw.randrange(3):
            case 0:
                made = folder / "damaged.pt"
                made.write_bytes(damaged(whole, draw))
            case 1:
                made = changed_archive(path, pickled=damaged(pickled, draw))
            case _:
                made = changed_archive(path, code=lambda text: damaged(text, draw))
        try:
            assert all(hasattr(tensor, "shape") for tensor in read_weights(made).values())
            seen["read"] += 1
        except WeightsError:
            seen["refused"] += 1
    return seen


def _pickle_of(path: Path) -> bytes:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


def fuzz_exports(draw: random.Random, count: int, folder: Path) -> collections.Counter[str]:
    """Read exported directories whose manifest has odd values, with and without a fitting signature, or is damaged."""
    from fuzzing import damaged

    model = write_export(folder / "model")
    whole = (model / FILE).read_bytes()
    content = json.loads(whole)
    unsigned = {name: value for name, value in content.items() if name not in ("format", "manifest_sha256")}
    seen: collections.Counter[str] = collections.Counter()
    for _ in range(count):
        seen["inputs"] += 1
        match draw.randrange(4):
            case 0:
                (model / FILE).write_bytes(damaged(whole, draw))
            case 1:
                (model / FILE).write_text(json.dumps(drawn(content, draw)))
            case _:
                odd = drawn(unsigned, draw)
                write_manifest(model, odd if isinstance(odd, dict) else {})
        seen["read" if look_at(f"onnx:{model}") else "refused"] += 1
    return seen


def fuzz_tokenizers(draw: random.Random, count: int, folder: Path) -> collections.Counter[str]:
    """Read definitions of tokenizers that have odd values or are damaged, and split a text with what is read."""
    from fuzzing import damaged

    whole = json.dumps(TOKENIZER).encode()
    seen: collections.Counter[str] = collections.Counter()
    for _ in range(count):
        seen["inputs"] += 1
        text = json.dumps(drawn(TOKENIZER, draw)) if draw.random() < 0.7 else damaged(whole, draw).decode("latin-1")
        try:
            tokenizer = FastTokenizer(text, 8, 0)
        except WeightsError:
            seen["refused"] += 1
            continue
        try:
            tokenizer("a b <s> c")
            seen["read"] += 1
        except (RowError, WeightsError):
            seen["failed at a text"] += 1
    return seen


# --- indexes ---------------------------------------------------------------------------------------------------------

ROWS = 600


def write_index(folder: Path, factory: str = "IVF8,SQ8") -> Path:
    """Build an index of 600 vectors; return its directory."""
    dataset = write_dataset(folder / "data", list(clustered(ROWS)))
    build_index([str(dataset)], str(folder / "index"), IndexOptions(factory=factory, queries=20))
    return folder / "index"


def fuzz_indexes(draw: random.Random, count: int, folder: Path) -> collections.Counter[str]:
    """Open and search indexes with an odd or damaged manifest, damaged vectors or damaged keys."""
    from fuzzing import damaged

    index = write_index(folder)
    whole = {path: path.read_bytes() for path in index.rglob("*") if path.suffix in (".npy", ".parquet", ".json")}
    manifest = json.loads(whole[index / MANIFEST])
    others = sorted(path for path in whole if path.name != MANIFEST)
    queries = clustered(3)
    seen: collections.Counter[str] = collections.Counter()
    for number in range(count):
        seen["inputs"] += 1
        mine = shutil.copytree(index, folder / f"mine{number}")  # an opened index is kept, by its place
        if draw.random() < 0.5:
            odd = drawn(manifest, draw)
            content = json.dumps(odd).encode() if draw.random() < 0.7 else damaged(whole[index / MANIFEST], draw)
            (mine / MANIFEST).write_bytes(content)
        else:
            path = draw.choice(others)
            content = damaged(whole[path], draw)
            name = path.relative_to(index).as_posix()
            (mine / name).write_bytes(content)
            (mine / MANIFEST).write_text(json.dumps({**manifest, "files": {**manifest["files"], name: len(content)}}))
        seen["searched" if _search(mine, queries) else "refused"] += 1
        shutil.rmtree(mine)
    return seen


def _search(index: Path, queries: np.ndarray) -> bool:
    """Search an index; return whether it could be searched. Any error that is not ours is raised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened, "_ATTEMPTS", 1)
        try:
            found = opened.open_index(index)
            hits = found.search(queries, 5)
            assert len(hits[0] if isinstance(hits, tuple) else hits) == len(queries)
            found.rows(np.array([0, -1]))
        except ClipmillError:
            return False
        finally:
            opened._opened.clear()
    return True


_DAMAGE = """
import random, resource, sys
import numpy as np
from clipmill.errors import DatasetError
from clipmill.indexes.candidates import Candidates
from clipmill.indexes.manifest import SearchParameters
source, target, rows, dim, first, count, seed = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))  # a size that is damaged may be any
content, draw = open(source, "rb").read(), random.Random(seed)
queries = np.eye(dim, dtype=np.float32)[:4]
for number in range(count):
    changed = bytearray(content)
    at = draw.randrange(min(400, len(changed)) if number % 2 else len(changed) - 8)
    changed[at : at + 1] = bytes([draw.randrange(256)])
    if number < first:
        continue
    open(target, "wb").write(changed)
    try:
        found = Candidates(target, rows, dim).search(queries, 5, SearchParameters(nprobe=4, ef_search=16))
        assert found.shape == (4, 5)
        print("searched", flush=True)
    except (DatasetError, MemoryError):
        print("refused", flush=True)
"""


def damage_index_file(
    file: Path, target: Path, *, rows: int, dim: int, count: int, seed: int
) -> collections.Counter[str]:
    """Search copies of a Faiss file with one changed byte each, in processes of their own; see SECURITY.md.

    Returns:
        How many were searched, refused, or `ended` their process; with the next one another process begins.
    """
    seen: collections.Counter[str] = collections.Counter()
    while (first := seen.total()) < count:
        command = [sys.executable, "-c", _DAMAGE, *map(str, (file, target, rows, dim, first, count, seed))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
        assert done.returncode <= 0, done.stderr[-500:]  # an error of Python's would be ours
        said = done.stdout.split()
        seen.update(said)
        if len(said) < count - first:
            seen["ended"] += 1
    return seen


def fuzz_index_files(draw: random.Random, count: int, folder: Path) -> collections.Counter[str]:
    """Search Faiss files of both kinds with one changed byte each, in processes of their own."""
    seen: collections.Counter[str] = collections.Counter(inputs=count)
    for number, factory in enumerate(("IVF8,SQ8", "HNSW8,SQ8")):
        index = write_index(folder / str(number), factory)
        file = index / json.loads((index / MANIFEST).read_text())["index_file"]
        some = count // 2 if number else count - count // 2
        seen += damage_index_file(
            file, folder / "changed.faiss", rows=ROWS, dim=DIM, count=some, seed=draw.randrange(2**31)
        )
    return seen


UNTRUSTED = {
    "archives": fuzz_archives,
    "exports": fuzz_exports,
    "tokenizers": fuzz_tokenizers,
    "indexes": fuzz_indexes,
    "index-files": fuzz_index_files,
}
"""As `fuzzing.FUZZERS`, of files of models and indexes."""
