"""The demo model and exported directories run where torch and open_clip are not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import FILES

from clipmill.encoders import load_encoder
from clipmill.models.demo import demo_directory

TEXTS = ["a red circle", "two small blue stars"]
PARTS = ("jpeg", "png")

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, *more):
        if name.partition(".")[0] in ("torch", "torchvision", "open_clip", "timm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""

PROGRAM = """
import sys
from pathlib import Path
import numpy as np

def main(folder, models):
    import apache_beam as beam
    import pyarrow as pa
    from clipmill.encoders import load_encoder
    from clipmill.pipelines.cli import main as command
    from clipmill.transforms import Embed, WriteEmbeddings
    from image_files import FILES

    texts, parts = {texts}, {parts}
    for name, model in models.items():
        encoder = load_encoder(model, device="cpu", precision="fp32")
        images = encoder.embed_images([FILES[part] for part in parts])
        np.savez(folder / f"core-{{name}}.npz", texts=encoder.embed_texts(texts), images=images)
        rows = [{{"id": str(n), "caption": texts[n], "photo": FILES[part]}} for n, part in enumerate(parts)]
        with beam.Pipeline() as pipeline:
            table = pipeline | beam.Create(rows)
            columns = {{"caption": "text", "photo": "image"}}
            embedded = table | Embed(model, columns=columns, precision="fp32", device="cpu")
            schema = pa.schema({{"id": pa.string(), "caption": pa.string(), "photo": pa.binary()}})
            embedded | WriteEmbeddings(str(folder / f"beam-{{name}}"), schema=schema)
        arguments = ["embed", str(folder / "rows.parquet"), "-o", str(folder / f"cli-{{name}}"), "--model", model]
        arguments += ["--column", "caption=text", "--column", "photo=image", "--precision", "fp32", "--device", "cpu"]
        try:
            command(arguments)
        except SystemExit as end:
            assert not end.code, end

if __name__ == "__main__":
    main(Path(sys.argv[1]), {{"demo": "demo", "exported": "onnx:" + sys.argv[2]}})
"""


def python(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    support = Path(__file__).parent.parent / "support"
    path = os.pathsep.join(filter(None, [str(support), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=os.sep, env=environment)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported directory: the demo model's own, since exporting takes a minute."""
    return Path(shutil.copytree(demo_directory(), tmp_path_factory.mktemp("exported") / "demo"))


@pytest.fixture(scope="module")
def folder(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `PROGRAM` wrote in a process in which torch cannot be imported."""
    folder = tmp_path_factory.mktemp("out")
    rows = {"id": ["0", "1"], "caption": TEXTS, "photo": [FILES[part] for part in PARTS]}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    done = python(BLOCKED + PROGRAM.format(texts=TEXTS, parts=PARTS), folder, exported)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("model", ["demo", "exported"])
def test_texts_and_images_have_the_vectors_of_torch(model: str, folder: Path) -> None:
    """Through the core, Beam and the command line."""
    encoder = load_encoder("demo", device="cpu", runtime="torch", precision="fp32")
    expected = {
        "texts": encoder.embed_texts(TEXTS),
        "images": encoder.embed_images([FILES[part] for part in PARTS]),
    }
    core = np.load(folder / f"core-{model}.npz")
    found = [("core", "texts", core["texts"]), ("core", "images", core["images"])]
    for adapter in ("beam", "cli"):
        table = pq.read_table(folder / f"{adapter}-{model}").sort_by("id")
        assert table.num_rows == len(TEXTS)
        for kind, column in (("texts", "caption"), ("images", "photo")):
            found.append((adapter, kind, np.stack(table[f"{column}_embedding"].to_pylist())))
    for adapter, kind, vectors in found:
        errors = np.linalg.norm(vectors - expected[kind], axis=1) / np.linalg.norm(expected[kind], axis=1)
        assert errors.max() <= 1e-4, (adapter, kind)


@pytest.mark.parametrize(
    ("model", "options"),
    [("ViT-B-32::openai", {}), ("demo", {"runtime": "torch"}), ("hf:openai/clip-vit-base-patch32", {})],
    ids=["catalog", "runtime", "hf"],
)
def test_what_needs_torch_names_the_extra(model: str, options: dict[str, str]) -> None:
    """Before anything is downloaded."""
    program = (
        "from clipmill.encoders import EncoderSpec, load_encoder\n"
        "from clipmill.errors import MissingExtraError\n"
        f"spec = EncoderSpec({model!r}, device='cpu', **{options!r})\n"
        "try: load_encoder(spec)\n"
        "except MissingExtraError as err: print(err)\n"
    )
    done = python(BLOCKED + program)
    assert done.stdout.strip().endswith("needs 'torch', which is not installed: pip install 'clipmill[torch]'"), done
    assert model in done.stdout or "runtime='torch'" in done.stdout


def test_all_models_are_known_without_torch() -> None:
    """Dimension, modalities, files and tokens: weights can be downloaded ahead, and jobs planned."""
    program = (
        "from clipmill.encoders import EncoderSpec\n"
        "from clipmill.models.towers import find_source\n"
        "spec = EncoderSpec('ViT-B-32::./none.safetensors')\n"
        "source = find_source(spec)\n"
        "print(EncoderSpec('ViT-H-14::laion2b_s32b_b79k').dim, spec.dim, sorted(spec.modalities))\n"
        "print([file.name for file in source.files], source.frontend.text.tokenizer('a cat')[0].tolist())\n"
    )
    done = python(BLOCKED + program)
    lines = ["1024 512 ['image', 'text']", "['none.safetensors'] [49406, 320, 2368, 49407]"]
    assert done.stdout.splitlines() == lines, done.stderr
