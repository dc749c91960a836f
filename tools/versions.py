"""Run the contract suites, and some tests of each room, with the oldest and the newest versions of what clipmill needs.

    python tools/versions.py --list
    python tools/versions.py lowest spark-4.0
    python tools/versions.py                    # all environments: hours, and 8 GB of disk for each while it runs

uv's cache grows by about as much for each environment; `uv cache prune` frees it.

Each environment is made from this project's own bounds, so that these are what is tested: `lowest` has the first
version that every bound of `pyproject.toml` allows. Figures are kept in `build/versions.jsonl`, and the command writes
those of each environment's last run into docs/versions.md.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "versions"
KEPT = ROOT / "build" / "versions.jsonl"
PAGE = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- versions: begin -->", "<!-- versions: end -->"
SHOWN = ("apache-beam", "pyspark", "numpy", "pyarrow", "pandas", "torch", "pillow", "transformers", "onnxruntime")
"""Packages whose versions are in the table."""

CORE = (
    *("tests/files/test_parquet.py", "tests/media/test_images.py", "tests/media/test_fast_decoding.py"),
    *("tests/models/test_spec.py", "tests/models/test_weights.py", "tests/encoders/test_session.py"),
    *("tests/models/test_downloads_hub.py", "tests/models/test_tokenizer.py"),
    *("tests/datasets/test_storage_dataset.py", "tests/jobs/test_storage_job.py", "tests/indexes/test_index_build.py"),
    *("tests/reports/test_report.py", "tests/pipelines/test_cli.py", "tests/pipelines/test_cli_index.py"),
)
GRAPHS = ("tests/models/test_runtimes.py", "tests/models/test_hugging_face.py")
"""What makes graphs of models, for which torch 2.4 is too old."""
BEAM = (
    *("tests/transforms/test_beam_contract.py", "tests/transforms/test_beam_rank_contract.py"),
    *("tests/transforms/test_beam_rows.py", "tests/transforms/test_beam_search.py"),
    *("tests/transforms/test_beam_write.py", "tests/transforms/test_beam_read.py"),
)
SPARK = (
    *("tests/udfs/test_spark_contract.py", "tests/udfs/test_spark_rank_contract.py"),
    *("tests/udfs/test_spark_expressions.py", "tests/udfs/test_spark_rank_sql.py"),
    *("tests/udfs/test_spark_rank_groups.py", "tests/udfs/test_spark_search.py"),
    *("tests/udfs/test_spark_shards.py", "tests/udfs/test_spark_existing.py"),
    *("tests/udfs/test_spark_ml.py", "tests/udfs/test_spark_streaming.py", "tests/udfs/test_spark_vector_functions.py"),
)
ALL_OF_SPARK = (
    *SPARK,
    *("tests/udfs/test_spark_columns.py", "tests/udfs/test_spark_types.py", "tests/udfs/test_spark_provenance.py"),
    *("tests/udfs/test_spark_classify.py", "tests/udfs/test_spark_rank.py", "tests/udfs/test_spark_rank_pairs.py"),
    *("tests/udfs/test_spark_binary_files.py", "tests/udfs/test_spark_images.py", "tests/udfs/test_spark_pieces.py"),
    *("tests/udfs/test_spark_batches.py", "tests/udfs/test_spark_metrics.py", "tests/udfs/test_spark_options.py"),
    *("tests/udfs/test_spark_worker.py", "tests/udfs/test_spark_encoder_process.py"),
)
"""With the versions of Spark that `make test` does not run."""
MEDIA = (
    *("tests/media/test_image_formats.py", "tests/media/test_plugins.py", "tests/media/test_byte_resizing.py"),
    *("tests/media/test_thumbnails.py", "tests/media/test_audio.py"),
)
FILES = (
    *("tests/files/test_parquet_pages.py", "tests/datasets/test_arrow_files.py", "tests/datasets/test_lance.py"),
    *("tests/datasets/test_storage_readers.py", "tests/datasets/test_storage_spark.py"),
    *("tests/datasets/test_storage_tables.py", "tests/datasets/test_column_types.py"),
)
"""More of what Pillow and pyarrow do."""
WITHOUT_BEAM = tuple(path for path in CORE if "test_cli" not in path)

DELTA = ("tests/udfs/delta_tables.py",)
"""Of the environments with a release of Delta for their version of Spark."""

SMOKE = (
    *("tests/pipelines/test_without_torch.py", "tests/encoders/test_session.py"),
    *("tests/transforms/test_beam_rows.py", "tests/udfs/test_spark_expressions.py"),
)

EXTRAS = "audio,beam,gcp,heif,hf,index,jxl,metrics,onnx,openvino,remote,report,spark,torch"
"""All but `lance`, which needs a newer pyarrow than the others."""
TOOLS = (
    *("build>=1.2.2", "pytest>=9.2", "pytest-random-order>=1.2", "pytest-xdist>=3.8"),
    *("scikit-image>=0.25", "scikit-learn>=1.6", "selenium>=4.30", "setuptools>=77"),
)

OLD_SPARK = {
    "test_a_string_that_is_not_utf8_fails_alone": "a pandas UDF cannot be given such a string",
    "test_types_of_candidates_in_sql": "pandas does not tell an empty array's type",
    "test_candidates_that_spark_would_cast_without_a_word_are_refused": "a pandas UDF shows 64 bits for 32",
    "test_deterministic_lets_spark_move_a_later_filter_before": "Spark 3.5 leaves out what nobody reads",
}
"""Before Spark 4.1, where expressions are pandas UDFs."""

SPARK_3 = {
    **OLD_SPARK,
    "test_arguments_by_name_in_sql": "functions written in Python have no names of arguments",
    "test_an_unknown_name_of_an_argument_in_sql": "the same",
    "test_just_what_spark_itself_cannot_convert_is_refused": "its conversion alone does not refuse two equal fields",
}
"""Spark 3.5."""

OLD_BEAM = {
    "test_named_tuples_become_rows_with_a_schema": "vectors are Any in schemas",
    "test_vectors_are_declared_as_arrays_and_stay_arrays": "the same",
    "test_a_column_of_that_name_is_not_written_over": "no schema can declare an array",
}
"""Before Beam 2.77."""


@dataclasses.dataclass(frozen=True)
class Environment:
    """Versions to try, and the tests that run with them.

    Attributes:
        what: What it stands for, for the table.
        python: The version of Python.
        lowest: Whether every package of the project is of the first version that its bound allows.
        extras: The extras of clipmill that are installed.
        pins: Requirements besides those of the project.
        tests: Files of tests.
        lacks: Names of tests that these versions cannot pass, with the reason; they are not run.
        delta: The package of Delta for this version of Spark, which Spark takes from Maven; "" for none.
    """

    what: str
    python: str = "3.11"
    lowest: bool = False
    extras: str = EXTRAS
    pins: tuple[str, ...] = ()
    tests: tuple[str, ...] = (*CORE, *GRAPHS, *BEAM, *SPARK)
    lacks: dict[str, str] = dataclasses.field(default_factory=dict)
    delta: str = ""

    @property
    def settings(self) -> dict[str, str]:
        """Variables of the environment of its tests."""
        settings = {
            "spark.jars.packages": self.delta,
            "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
            "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
            "spark.databricks.delta.snapshotPartitions": "1",  # by default 50 tasks for each table
        }
        confs = " ".join(f"--conf {name}={value}" for name, value in settings.items())
        return {"PYSPARK_SUBMIT_ARGS": f"{confs} pyspark-shell"} if self.delta else {}


ENVIRONMENTS = {
    "lowest": Environment(
        "the first version that each bound allows",
        lowest=True,
        tests=(*CORE, *BEAM, *ALL_OF_SPARK),
        lacks={**SPARK_3, **OLD_BEAM},
    ),
    "lowest-light": Environment(
        "the same without torch, in short: `.ci/run` does this",
        lowest=True,
        extras="beam,onnx,spark",
        tests=SMOKE,
        lacks={**SPARK_3, **OLD_BEAM, "test_texts_and_images_have_the_vectors_of_torch": "there is no torch"},
    ),
    "spark-4.0": Environment(
        "Spark 4.0",
        pins=("pyspark[connect]==4.0.*",),
        tests=(*ALL_OF_SPARK, *DELTA),
        lacks=OLD_SPARK,
        delta="io.delta:delta-spark_2.13:4.0.1",
    ),
    "spark-4.1": Environment(
        "Spark 4.1",
        pins=("pyspark[connect]==4.1.*",),
        tests=(*ALL_OF_SPARK, *DELTA),
        delta="io.delta:delta-spark_4.1_2.13:4.3.0",
    ),
    "newest": Environment("the newest of everything"),
    "without-beam": Environment(
        "Pillow and pyarrow that Beam holds back",
        extras="audio,heif,hf,index,jxl,lance,metrics,onnx,openvino,remote,report,spark,torch",
        pins=("pillow>=13", "pyarrow>=26", "gcsfs>=2025.3"),
        tests=(*WITHOUT_BEAM, *MEDIA, *FILES, *GRAPHS, *SPARK),
        lacks={
            "test_labels_are_counted_by_the_best": "its command runs Beam",
            "test_the_command_writes_overwrites_and_resumes_it_on_both_engines": "one of them is Beam",
        },
    ),
    "python-3.12": Environment("Python 3.12, the newest of everything", python="3.12"),
    "python-3.13": Environment("Python 3.13, the newest of everything", python="3.13"),
}


def interpreter(version: str) -> str | None:
    """Return the path of a Python of a version, in PATH or of pyenv; None if there is none."""
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in (shutil.which(f"python{version}"), *sorted(map(str, folder.glob(f"{version}.*/bin/python")))):
        if path and subprocess.run([path, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return path
    return None


def make(name: str, environment: Environment, python: str) -> Path:
    """Make the virtual environment, with clipmill installed from a wheel; return its interpreter."""
    folder = BUILD / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # setuptools would take modules along that are gone
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", python, str(folder)], check=True)
    ours = str(folder / "bin" / "python")
    how = ["--resolution", "lowest-direct"] if environment.lowest else ["--upgrade"]
    wanted = [f"{ROOT}[{environment.extras}]", *TOOLS, *environment.pins]
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", ours, *how, *wanted], check=True, cwd=ROOT)
    return Path(ours)


def versions_in(python: Path) -> dict[str, str]:
    """Return the versions of the packages that the table shows."""
    all_of_them = "[[one.name.lower(), one.version] for one in importlib.metadata.distributions()]"
    code = f"import importlib.metadata, json; print(json.dumps({all_of_them}))"
    said = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = dict(json.loads(said))
    return {name: found[name] for name in SHOWN if name in found}


def run(name: str, environment: Environment, more: Sequence[str]) -> dict[str, Any]:
    """Make an environment, run its tests and return what is kept of them."""
    python = interpreter(environment.python)
    if python is None:
        raise click.ClickException(f"{name} needs Python {environment.python}, which is neither in PATH nor in pyenv")
    ours = make(name, environment, python)
    result = BUILD / f"{name}.xml"
    left_out = " and ".join(f"not {test}" for test in environment.lacks)
    started = time.monotonic()
    # Warnings are not errors here: of older packages there are many, and of newer ones not yet known ones.
    options = ["-n", "2", "--override-ini=filterwarnings=", f"--junitxml={result}", "-k", left_out or "test"]
    code = subprocess.run(
        [str(ours), "-m", "pytest", *environment.tests, *options, *more],
        cwd=ROOT,
        env=os.environ | environment.settings,
        check=False,
    ).returncode
    suite = re.search(r"<testsuite [^>]*>", result.read_text(encoding="utf-8"))
    assert suite is not None
    counts = {key: int(value) for key, value in re.findall(r'(errors|failures|skipped|tests)="(\d+)"', suite[0])}
    return {
        "environment": name,
        "date": datetime.date.today().isoformat(),
        "python": environment.python,
        "versions": versions_in(ours),
        "passed": counts["tests"] - counts["errors"] - counts["failures"] - counts["skipped"],
        "failed": counts["errors"] + counts["failures"],
        "seconds": round(time.monotonic() - started),
        "ended": code,
    }


def row(name: str, one: dict[str, Any]) -> str:
    """Return the row of a run in the table."""
    versions = " | ".join(one["versions"].get(package, "") for package in SHOWN)
    about = f"| `{name}`: {ENVIRONMENTS[name].what} | {one['python']} | {versions}"
    return f"{about} | {one['passed']:,} | {one['failed']} | {one['date']} |"


def rewritten(page: str, kept: Sequence[dict[str, Any]]) -> str:
    """Return the page with the last run of each environment; those that ran elsewhere keep their rows."""
    before, _, rest = page.partition(BEGIN)
    there, _, after = rest.partition(END)
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `([\w.-]+)`.*$", there, re.MULTILINE)}
    rows |= {one["environment"]: row(one["environment"], one) for one in kept}
    lines = [
        f"| environment | Python | {' | '.join(SHOWN)} | passed | failed | date |",
        f"|---|---|{'---|' * len(SHOWN)}---|---|---|",
        *(rows[name] for name in ENVIRONMENTS if name in rows),
    ]
    return "\n".join([before + BEGIN, *lines, END + after])


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(ENVIRONMENTS)), metavar="[ENVIRONMENT]...")
@click.option("--list", "listed", is_flag=True, help="Print the environments and stop.")
@click.option("--keep", is_flag=True, help="Keep the environments, under build/versions/.")
@click.option("--pytest", "more", multiple=True, help="An argument for pytest.")
def main(names: tuple[str, ...], listed: bool, keep: bool, more: tuple[str, ...]) -> None:
    """Run the tests in the named environments, or in all."""
    if listed:
        for name, environment in ENVIRONMENTS.items():
            click.echo(f"{name:12s} {environment.what}; {len(environment.tests)} files of tests")
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in names or ENVIRONMENTS:
        click.echo(f"{name}: {ENVIRONMENTS[name].what}")
        one = run(name, ENVIRONMENTS[name], more)
        with KEPT.open("a", encoding="utf-8") as file:
            file.write(json.dumps(one) + "\n")
        if one["ended"]:
            failed.append(name)
        if not keep:
            shutil.rmtree(BUILD / name)
    kept = [json.loads(line) for line in KEPT.read_text(encoding="utf-8").splitlines()]
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")
    if failed:
        raise click.ClickException(f"tests failed with {', '.join(failed)}")


if __name__ == "__main__":
    main()
