"""The Dataflow flex template: its parameters are those of its pipeline, which runs, and builds a job for Dataflow.

Nothing here builds the image; tests/test_docker.py checks its Dockerfile.
"""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from beam_helpers import LOCAL
from dockerfiles import copies, parse
from pictures import encode, photographs
from places import DOCS, ROOT

from clipmill.datasets import read_dataset

FLEX = ROOT / "docker" / "flex"
METADATA = json.loads((FLEX / "metadata.json").read_text(encoding="utf-8"))
PARAMETERS = {one["name"]: one for one in METADATA["parameters"]}
KEYS = {"name", "label", "helpText", "paramType", "isOptional", "regexes"}
BEAMS_OWN = {"sdk_container_image"}


@pytest.fixture(scope="module")
def template() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(FLEX / "embed.py")))


def test_the_image_starts_the_pipeline_that_it_holds() -> None:
    flex = parse((ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")).stages["flex"]
    held = {target for origin, _, target in copies(flex) if origin is None}
    (environ,) = flex.of("ENV")
    file = Path(environ.removeprefix("FLEX_TEMPLATE_PYTHON_PY_FILE="))
    assert str(file.parent) in held and (FLEX / file.name).is_file()
    launcher = "/opt/google/dataflow/python_template_launcher"  # where Dataflow looks for it
    assert ("launcher", [launcher], launcher) in copies(flex)


def test_the_metadata_is_what_dataflow_takes() -> None:
    assert METADATA.keys() == {"name", "description", "parameters"}
    for name, one in PARAMETERS.items():
        assert re.fullmatch(r"[a-zA-Z][-_a-zA-Z0-9]+[a-zA-Z0-9]", name)
        assert one.keys() <= KEYS and {"label", "helpText", "paramType"} <= one.keys()
        assert all(re.compile(expression) for expression in one["regexes"])


def test_parameters_are_the_options_of_the_pipeline(template) -> None:
    options = {action.dest: action for action in template.parser()._actions if action.dest != "help"}
    assert options.keys() == PARAMETERS.keys() - BEAMS_OWN
    for name, action in options.items():
        one = PARAMETERS[name]
        assert action.required is not one.get("isOptional", False)
        if action.default:
            assert any(re.fullmatch(expression, action.default) for expression in one["regexes"])


@pytest.mark.parametrize(
    ("name", "value", "is_allowed"),
    [
        ("input", "gs://bucket/photos/**.jpg,gs://bucket/more/*.png", True),
        ("input", "gs://bucket/a,,gs://bucket/b", False),
        ("if_exists", "replace", True),
        ("if_exists", "resume", False),  # which a bounded pipeline cannot do
        ("max_batch_rows", "0", False),
        ("dtype", "int8", False),
    ],
)
def test_what_parameters_allow(name: str, value: str, is_allowed: bool) -> None:
    assert any(re.fullmatch(expression, value) for expression in PARAMETERS[name]["regexes"]) is is_allowed


def test_the_pipeline_runs(template, tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(encode(photographs()["chelsea"], "JPEG"))
    (tmp_path / "bad.jpg").write_bytes(b"no photograph")
    (tmp_path / "captions.jsonl").write_text('{"id": "a", "text": "a cat"}\n')
    given = {
        "input": f"{tmp_path}/*.jpg,{tmp_path}/captions.jsonl",
        "output": str(tmp_path / "vectors"),
        "model": "fake::dim=8",
        "if_exists": "fail",
        "max_batch_rows": "4",
        "dtype": "float16",
        "allow_buckets": "gs://photos",
    }
    assert given.keys() == PARAMETERS.keys() - BEAMS_OWN
    arguments = [f"--{name}={value}" for name, value in given.items()]
    template.build([*arguments, *LOCAL]).run().wait_until_finish()
    table = read_dataset(given["output"])
    assert sorted(table["id"].to_pylist()) == sorted([f"{tmp_path}/cat.jpg", "a"])
    (failures,) = (tmp_path / "vectors" / "_failures").glob("*.jsonl")
    assert json.loads(failures.read_text())["code"] == "undecodable"


def test_a_job_for_dataflow_is_built(template, tmp_path: Path, monkeypatch) -> None:
    """As the launcher does it, without submitting; nothing is read or written."""
    own = ["--input=gs://bucket/photos/**.jpg", "--output=gs://bucket/vectors", "--model=ViT-B-32::openai"]
    where = ["--project=nobody", "--region=europe-west1", "--temp_location=gs://nowhere/temp", "--no_auth"]
    image = "europe-docker.pkg.dev/nobody/images/clipmill:flex"
    monkeypatch.chdir(tmp_path)
    p = template.build([*own, *where, f"--sdk_container_image={image}", "--runner=DataflowRunner", "--dry_run=True"])
    p.run()
    components = p.runner.proto_pipeline.components
    assert [image.encode() in one.payload for one in components.environments.values()] == [True]
    assert any(one.unique_name.startswith("Embed(ViT-B-32::openai)/") for one in components.transforms.values())


def test_the_page_names_the_parameters() -> None:
    page = (DOCS / "dataflow.md").read_text(encoding="utf-8")
    section = page[page.index("## Flex template") :].split("\n## ")[0]
    named = {one for flag in re.findall(r"--parameters (\S+)=", section) for one in flag.split("=")[:1]}
    assert named <= PARAMETERS.keys() and {"input", "output", "model", "sdk_container_image"} <= named
    assert "--target flex" in section and "docker/flex/metadata.json" in section
