"""A job on Prism whose workers install the package that `--setup_file ./setup.py` stages, and run that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from prism import Prism, process_options

from clipmill.datasets import read_dataset
from clipmill.encoders import Document
from clipmill.encoders.testing import fake_text_vector
from clipmill.transforms import Embed, WriteEmbeddings

ROOT = Path(__file__).resolve().parents[2]
_SOURCES = (
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "LICENSE",
    "README.md",
    "src",
    "transforms",
    "udfs",
    "pipelines",
)
_OFFLINE = {"PIP_NO_INDEX": "1", "PYTHONPATH": ""}
"""What the package needs is there: `libraries.pth`."""


def embed_with_staged_package(folder: Path) -> dict[str, int]:
    """Embed with workers whose interpreter has all that clipmill needs, and not clipmill; return counts."""
    home, source = folder / "worker", folder / "source"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")  # their own .pth files are not read
    source.mkdir()
    for name in _SOURCES:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    path = os.pathsep.join([str(home / "bin"), os.environ["PATH"]])
    texts = ["one", "two", "three"]

    def where(_: Document) -> str:  # not of a module that workers would import
        import clipmill

        return str(Path(clipmill.__file__).parent)

    with Prism(folder) as prism:
        workers = process_options(folder, PATH=path, **_OFFLINE)
        options = prism.options(*workers, f"--setup_file={source / 'setup.py'}")
        with beam.Pipeline(options=PipelineOptions(options)) as p:
            embedded = p | beam.Create([Document(id=text, text=text) for text in texts]) | Embed("fake::dim=8")
            _ = embedded | WriteEmbeddings(folder / "out")
            _ = embedded.rows | beam.Map(where) | beam.io.WriteToText(str(folder / "where"))
    rows = read_dataset(str(folder / "out")).to_pylist()
    assert {row["id"]: row["embedding"] for row in rows} == {t: fake_text_vector(t).tolist() for t in texts}
    found = {line for file in folder.glob("where-*") for line in file.read_text().split()}
    assert found == {str(site / "clipmill")}, found
    return {"rows": len(rows)}
