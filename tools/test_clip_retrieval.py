"""Let clip-retrieval's own code read the output of `clipmill embed --format clip-retrieval`.

    python tools/test_clip_retrieval.py [--environment DIR]

clip-retrieval, embedding-reader and autofaiss are installed from PyPI, unmodified, into a separate environment, because
they need numpy below 2 (some 6 GB, kept in DIR for the next run). Drawn pictures with captions are embedded into
clip-retrieval's layout, and into Parquet for comparison. In that environment,

- embedding-reader reads the vectors, and the vectors with their metadata;
- `clip-retrieval index` builds its two indices, whose nearest neighbours must be those of brute force;
- the service of `clip-retrieval back` answers queries, with each of its three ways to store metadata;
- `clip-retrieval filter` copies the pictures that it found.

The last two load OpenAI's weights at their start, only to embed queries. Here the function that loads the model is
replaced by one that returns the query's precomputed vector; all code behind it is clip-retrieval's own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

from clipmill.pipelines.drawings import caption, draw, sample_scene

ROOT = Path(__file__).resolve().parent.parent
PICTURES, SHARD, QUERIES = 120, 50, 20
PACKAGES = ("clip-retrieval", "embedding-reader", "autofaiss")
NEEDED = ("setuptools<70",)
"""Its clip-anytorch imports `packaging` from pkg_resources, which later versions lack, without declaring it."""

READ = """
import sys
import numpy as np
from embedding_reader import EmbeddingReader

layout, out = sys.argv[1:]
found = {}
for folder in ("img_emb", "text_emb"):
    plain = EmbeddingReader(f"{layout}/{folder}", file_format="npy")
    read = np.concatenate([vectors for vectors, _ in plain(batch_size=32, show_progress=False)])
    columns = ["image_path", "caption", "url"]
    beside = EmbeddingReader(
        f"{layout}/{folder}", file_format="parquet_npy", metadata_folder=f"{layout}/metadata", meta_columns=columns
    )
    batches = list(beside(batch_size=32, show_progress=False))
    assert np.array_equal(read, np.concatenate([vectors for vectors, _ in batches]))
    for column in columns:
        found[column] = np.array([value for _, metadata in batches for value in metadata[column]])
    about = f"{plain.count} vectors of {plain.dimension} values"
    print(f"embedding-reader: {folder} has {about}")
    found[folder] = read
np.savez(out, **found)
"""

SEARCH = """
import contextlib, importlib, io, os, pathlib, sys
import all_clip, clip, faiss
import numpy as np
import torch
from clip_retrieval.clip_filter import clip_filter

clip_back = importlib.import_module("clip_retrieval.clip_back")  # the package has a function of that name

layout, index, read, queries = sys.argv[1:4] + [int(sys.argv[4])]
found = np.load(read)

def nearest(vectors, query, count):
    return [int(row) for row in np.argsort(-(vectors @ query), kind="stable")[:count]]

for name, folder in (("image", "img_emb"), ("text", "text_emb")):
    built = faiss.read_index(f"{index}/{name}.index")
    assert built.ntotal == len(found[folder])
    scores, rows = built.search(found["text_emb"][:queries], 10)
    for number in range(queries):
        scored = found[folder] @ found["text_emb"][number]
        best = scored[nearest(found[folder], found["text_emb"][number], 10)]
        # Captions repeat, and rows with equal scores may come in any order.
        assert np.allclose(scored[rows[number]], best, atol=1e-3), (name, number, scored[rows[number]], best)
    about = f"{type(built).__name__}, {built.ntotal} vectors"
    print(f"{name}.index: {about}, the 10 nearest of {queries} queries equal those of brute force")

class Given:
    "Replaces the model that embeds queries: it returns a precomputed vector."
    vector = None
    def encode_text(self, tokens):
        return torch.from_numpy(self.vector[None].copy())

model = Given()
all_clip.load_clip = lambda *args, **options: (model, None, lambda texts: torch.zeros(1))
clip.load = lambda *args, **options: (model, None)
clip.tokenize = lambda texts: torch.zeros(1)

for way in ({}, {"enable_hdf5": True}, {"use_arrow": True}):
    if way.get("use_arrow"):
        from clip_retrieval.clip_back_prepro.parquet_to_arrow import parquet_to_arrow
        os.makedirs(f"{index}/arrow")
        parquet_to_arrow(f"{layout}/metadata", f"{index}/arrow", ["image_path", "caption", "url"])
        os.rename(f"{index}/metadata", f"{index}/metadata.parquet")
        os.rename(f"{index}/arrow", f"{index}/metadata")
    options = dict(
        indice_folder=index, clip_model="", enable_hdf5=False, enable_faiss_memory_mapping=False,
        columns_to_return=["url", "image_path", "caption"], reorder_metadata_by_ivf_index=False,
        enable_mclip_option=False, use_jit=False, use_arrow=False, provide_safety_model=False,
        provide_violence_detector=False, provide_aesthetic_embeddings=False,
    )
    resource = clip_back.load_clip_index(clip_back.ClipOptions(**{**options, **way}))
    service = clip_back.KnnService(clip_resources={"drawings": resource})
    for number in range(queries):
        model.vector = found["text_emb"][number]
        for modality in ("image", "text"):
            asked = dict(modality=modality, num_images=5, num_result_ids=5, deduplicate=False)
            answers = service.query(text_input="x", **asked)
            assert len(answers) == 5
            for answer in answers:
                row = answer["id"]
                metadata = {name: answer[name] for name in ("image_path", "caption", "url")}
                assert metadata == {name: found[name][row].item() for name in metadata}, (way, row, metadata)
    print(f"clip-retrieval back {way or ''}: {queries} queries answered, each with its metadata")
os.rename(f"{index}/metadata", f"{index}/metadata.arrow")
os.rename(f"{index}/metadata.parquet", f"{index}/metadata")

model.vector = found["img_emb"][7]
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    clip_filter("a drawing", f"{index}/filtered", index, num_results=5)
wanted = {os.path.basename(found["image_path"][row]) for row in nearest(found["img_emb"], found["img_emb"][7], 5)}
copied = {path.name for path in pathlib.Path(f"{index}/filtered").iterdir()}
assert copied == wanted, (copied, wanted)
assert f"https://example.com/{7}.png" in printed.getvalue()
print(f"clip-retrieval filter: copied the {len(copied)} nearest pictures")
"""

COMPARE = """
import sys
import numpy as np
from clipmill.datasets import read_dataset

read, table = np.load(sys.argv[1]), read_dataset(sys.argv[2])
keys = {key: row for row, key in enumerate(table.column("id").to_pylist())}
rows = [keys[path] for path in read["image_path"]]
assert sorted(rows) == list(range(len(keys)))
for folder, column in (("img_emb", "image_embedding"), ("text_emb", "text_embedding")):
    ours = np.stack(table.column(column).to_numpy())[rows]
    assert np.abs(ours - read[folder]).max() < 1e-3, folder
    assert np.abs(ours - np.roll(ours, 1, axis=0)).max() > 0.1, "vectors that are all alike prove nothing"
captions = table.column("text").to_pylist()
assert [captions[row] for row in rows] == list(read["caption"])
print(f"{len(rows)} rows: vectors, captions and paths are those of the Parquet dataset")
"""


def draw_pictures(folder: Path) -> None:
    """Draw pictures with captions and metadata beside them, in the layout of img2dataset's files."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        scene = sample_scene(rng)
        draw(scene, rng).save(folder / f"{number:09d}.png")
        (folder / f"{number:09d}.txt").write_text(caption(scene, rng), encoding="utf-8")
        (folder / f"{number:09d}.json").write_text(f'{{"url": "https://example.com/{number}.png"}}', encoding="utf-8")


def run(*command: object) -> None:
    """Run a command; a failure ends the test."""
    subprocess.run([str(part) for part in command], check=True)


def environment(folder: Path) -> Path:
    """Return the environment's folder of programs, creating it if necessary, and print its packages."""
    programs = folder / "bin"
    if not (programs / "clip-retrieval").exists():
        print(f"installing {', '.join(PACKAGES)} into {folder}", flush=True)
        venv.create(folder, with_pip=True)
        run(programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES, *NEEDED)
    listed = [programs / "python", "-m", "pip", "list", "--disable-pip-version-check", "--format=freeze"]
    installed = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.splitlines()
    named = ("autofaiss", "clip_retrieval", "embedding-reader", "faiss-cpu", "numpy", "pyarrow")
    print("with " + ", ".join(line for line in installed if line.partition("==")[0] in named), flush=True)
    return programs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", type=Path, default=ROOT / "build" / "clip-retrieval", metavar="DIR")
    programs = environment(parser.parse_args().environment.absolute())
    with tempfile.TemporaryDirectory(prefix="clipmill-clip-retrieval-") as name:
        folder = Path(name)
        draw_pictures(folder / "pictures")
        clipmill = Path(sys.executable).parent / "clipmill"
        for format in ("clip-retrieval", "parquet"):
            options = ("--model", "demo", "--normalize", "--rows-per-shard", SHARD, "--format", format)
            columns = ("--column", "image=image", "--column", "text=text")
            run(clipmill, "embed", folder / "pictures", "--output", folder / format, *options, *columns)
        layout, index, read = folder / "clip-retrieval", folder / "index", folder / "read.npz"
        run(programs / "python", "-c", READ, layout, read)
        run(sys.executable, "-c", COMPARE, read, folder / "parquet")
        run(programs / "clip-retrieval", "index", f"--embeddings_folder={layout}", f"--index_folder={index}")
        run(programs / "python", "-c", SEARCH, layout, index, read, QUERIES)
    print("clip-retrieval reads what clipmill writes")


if __name__ == "__main__":
    main()
