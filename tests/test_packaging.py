"""The folders of the repository arrive as `clipmill.<folder>`, whole, in an installed wheel, and nowhere else.

An editable install hides what a wheel lacks, so all of this looks at a wheel that was built from the sdist, and runs
in processes that see that wheel and the libraries of this environment, but neither the clone nor its import hook.
"""

from __future__ import annotations

import email.message
import email.parser
import io
import json
import pickle
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from places import ROOT

import clipmill

FOLDERS = ("pipelines", "transforms", "udfs")
ROOMS = ("files", "metrics", "media", "models", "encoders", "datasets", "jobs", "indexes", "reports")
DATA = (
    *(("models", ending) for ending in ("json", "safetensors")),
    *(("models/demo", ending) for ending in ("onnx", "data", "gz", "txt")),
    *(("reports", ending) for ending in ("html", "css")),
)
HEAVY = ("apache_beam", "numpy", "open_clip", "pandas", "PIL", "pyarrow", "pyspark", "torch", "transformers")


def source_modules() -> dict[str, Path]:
    """Return the file of every module in the sources, by the path that it must have in a wheel."""
    modules = {file.relative_to(ROOT / "src").as_posix(): file for file in (ROOT / "src/clipmill").rglob("*.py")}
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            modules[f"clipmill/{file.relative_to(ROOT).as_posix()}"] = file
    return modules


def copy_sources(target: Path) -> Path:
    """Copy what a build reads: builds leave files beside the sources, and two at once would meet."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("src", "tests", *FOLDERS):  # tests, to see that they stay out
        shutil.copytree(ROOT / folder, target / folder, ignore=ignore)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, target)
    return target


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command in a folder and return what it printed; what it said instead is in the failed assertion."""
    done = subprocess.run(command, check=False, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it, made without a network."""
    folder = tmp_path_factory.mktemp("built")
    sources = copy_sources(tmp_path_factory.mktemp("sources"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, sources, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel_files(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def sdist_files(built: Path) -> set[str]:
    (sdist,) = built.glob("*.tar.gz")
    return names_in_sdist(sdist)


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index")
    run(*pip, "--no-deps", "--target", target, wheel, cwd=target)
    return target


def module_names(files: set[str]) -> dict[str, str]:
    """Return the file of every module in a wheel by the module's name, sorted."""
    files = {file for file in files if file.endswith(".py")}
    return {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in sorted(files)}


def names_in_sdist(sdist: Path) -> set[str]:
    """Return the paths of the files in an sdist, below its one folder."""
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def run_on(installed: Path, code: str, cwd: Path) -> str:
    """Run code that sees the installed wheel and this environment's libraries.

    `-I` keeps the working directory and PYTHONPATH out, `-S` the `.pth` files, among them the editable install's hook.
    """
    paths = json.dumps([str(installed), *site.getsitepackages()])
    return run(sys.executable, "-I", "-S", "-c", f"import sys; sys.path += {paths}\n{code}", cwd=cwd)


def test_every_module_of_the_sources_is_in_the_wheel(wheel_files: set[str]) -> None:
    assert {name for name in wheel_files if name.endswith(".py")} == set(source_modules())


def test_every_folder_has_a_table_of_contents() -> None:
    for folder in {file.parent for file in source_modules().values()}:
        assert (folder / "__init__.py").read_text(encoding="utf-8").startswith('"""'), folder


def test_nothing_is_installed_under_another_name(wheel_files: set[str]) -> None:
    assert {name.partition("/")[0] for name in wheel_files} == {
        "clipmill",
        f"clipmill-{clipmill.__version__}.dist-info",
    }


def test_data_files_are_in_the_wheel(wheel_files: set[str]) -> None:
    data = {
        file.relative_to(ROOT / "src").as_posix()
        for room, ending in DATA
        for file in (ROOT / "src/clipmill" / room).rglob(f"*.{ending}")
    }
    assert "clipmill/reports/page.html" in data
    demo = {Path(name).suffix for name in data if name.startswith("clipmill/models/demo/")}
    assert demo == {".json", ".safetensors", ".onnx", ".data", ".gz", ".txt"}
    assert data | {"clipmill/py.typed"} == {
        name for name in wheel_files if "dist-info" not in name and name[-3:] != ".py"
    }


def test_the_sdist_holds_what_builds_the_wheel_and_no_tests(sdist_files: set[str]) -> None:
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "src/clipmill/py.typed"} <= sdist_files
    assert {f"{folder}/__init__.py" for folder in FOLDERS} <= sdist_files
    assert not {name for name in sdist_files if name.startswith(("tests/", "benchmarks/", "examples/"))}


def test_setup_py_builds_the_same_sdist_by_itself(sdist_files: set[str], tmp_path: Path) -> None:
    """Beam runs `python setup.py sdist` where the `build` package is missing."""
    sources = copy_sources(tmp_path)
    run(sys.executable, "setup.py", "--quiet", "sdist", cwd=sources)
    (sdist,) = (sources / "dist").glob("*.tar.gz")
    assert names_in_sdist(sdist) == sdist_files


def test_metadata(metadata: email.message.Message) -> None:
    assert metadata["Version"] == clipmill.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    extras = (
        "all all-gpu audio beam dev docs gcp heif hf index jxl lance metrics milvus notebooks onnx onnx-gpu openvino"
        " postgres qdrant remote report spark test torch"
    )
    assert sorted(metadata.get_all("Provides-Extra", [])) == extras.split()


def test_torch_is_an_extra(metadata: email.message.Message) -> None:
    """Only of those that need every model: an engine and a runtime make a small environment."""
    required = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    extras = metadata.get_all("Provides-Extra", [])
    bare = {one.name for one in required if one.marker is None or one.marker.evaluate({"extra": ""})}
    assert not bare & {"torch", "open-clip-torch", "open_clip_torch"} and "numpy" in bare
    including = {
        extra
        for extra in extras
        for one in required
        if one.marker is not None and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})
        if one.name == "torch" or "torch" in one.extras
    }
    assert including == {"torch", "all", "all-gpu", "test"}


def test_every_module_imports_from_the_wheel(wheel_files: set[str], installed: Path, tmp_path: Path) -> None:
    modules = module_names(wheel_files)
    code = f"""
import importlib, json
print(json.dumps({{name: importlib.import_module(name).__file__ for name in {list(modules)}}}))
"""
    places = json.loads(run_on(installed, code, cwd=tmp_path).splitlines()[-1])
    assert places == {name: str(installed / file) for name, file in modules.items()}


def test_a_clone_does_not_shadow_the_wheel(installed: Path) -> None:
    """Spark's workers run with the current directory on their path, which may be the clone."""
    paths = json.dumps(["", str(installed), *site.getsitepackages()])
    code = f"import sys; sys.path[:0] = {paths}; import clipmill.encoders as it; print(it.__file__)"
    assert run(sys.executable, "-I", "-S", "-c", code, cwd=ROOT).strip() == str(
        installed / "clipmill/encoders/__init__.py"
    )


def test_import_clipmill_is_light(installed: Path, tmp_path: Path) -> None:
    code = f"""
import json, time
start = time.perf_counter()
import clipmill
taken = time.perf_counter() - start
print(json.dumps([taken, [name for name in {HEAVY!r} if name in sys.modules]]))
"""
    results = [json.loads(run_on(installed, code, cwd=tmp_path)) for _ in range(3)]
    assert [loaded for _, loaded in results] == [[], [], []]
    assert min(taken for taken, _ in results) < 0.1


@pytest.mark.parametrize(
    ("rooms", "foreign"),
    [
        (ROOMS, {"apache_beam", "pyspark"}),
        (("transforms",), {"pyspark"}),
        (("udfs",), {"apache_beam"}),
    ],
    ids=["without an engine", "transforms", "udfs"],
)
def test_dependencies_point_one_way(
    rooms: tuple[str, ...], foreign: set[str], wheel_files: set[str], installed: Path, tmp_path: Path
) -> None:
    """Nobody pays for the other engine, at import, in any module of a room."""
    modules = [name for name in module_names(wheel_files) if name.split(".")[1:2] and name.split(".")[1] in rooms]
    code = f"""
import importlib, json
for name in {modules!r}:
    importlib.import_module(name)
print(json.dumps(sorted({foreign!r} & set(sys.modules))))
"""
    assert json.loads(run_on(installed, code, cwd=tmp_path).splitlines()[-1]) == []


def test_public_names_are_those_of_their_packages(installed: Path, tmp_path: Path) -> None:
    """Each is listed by `dir`, public in exactly one package, and the very object from there."""
    code = """
import clipmill, importlib, json
packages = [importlib.import_module(f"clipmill.{folder}") for folder in ("encoders", "transforms", "udfs")]
homes = {
    name: [package.__name__ for package in packages if name in package.__all__ and name in dir(clipmill)
           and getattr(clipmill, name) is getattr(package, name)]
    for name in clipmill.__all__
}
print(json.dumps(homes))
"""
    homes = json.loads(run_on(installed, code, cwd=tmp_path).splitlines()[-1])
    assert homes == {
        "Classify": ["clipmill.transforms"],
        "Document": ["clipmill.encoders"],
        "Embed": ["clipmill.transforms"],
        "EncoderSpec": ["clipmill.encoders"],
        "Head": ["clipmill.encoders"],
        "Rank": ["clipmill.transforms"],
        "ReadDocuments": ["clipmill.transforms"],
        "Similarity": ["clipmill.transforms"],
        "WriteEmbeddings": ["clipmill.transforms"],
        "__version__": [],
        "classify": ["clipmill.udfs"],
        "clip_similarity": ["clipmill.udfs"],
        "embed_columns": ["clipmill.udfs"],
        "embed_image": ["clipmill.udfs"],
        "embed_text": ["clipmill.udfs"],
        "rank": ["clipmill.udfs"],
        "rank_groups": ["clipmill.udfs"],
        "load_encoder": ["clipmill.encoders"],
        "read_provenance": ["clipmill.encoders"],
        "score": ["clipmill.encoders"],
    }


def test_an_unknown_name_is_an_attribute_error_that_lists_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'embed'; it has Classify, Document, Embed, "):
        _ = clipmill.embed


@pytest.mark.parametrize(
    "transform",
    [
        clipmill.Embed("fake::dim=8"),
        clipmill.Rank("fake::dim=8"),
        clipmill.Rank("fake::dim=8", query="q", candidates="c"),
        clipmill.Rank("fake::dim=8", query="q", candidate="c", by="g", top_k=3),
        clipmill.Classify(["a", "b"], model="fake::dim=8"),
        clipmill.Classify(["a", "b"], model="fake::dim=8", columns={"a": "text"}),
    ],
    ids=lambda transform: transform.label,
)
def test_a_pickled_transform_names_only_clipmill(transform: object) -> None:
    """A worker has the wheel, not the clone: `transforms.embed` or `tests.…` in a pickle would not load there."""
    named: set[str] = set()

    class Recorder(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            named.add(module)
            return super().find_class(module, name)

    again = Recorder(io.BytesIO(pickle.dumps(transform))).load()
    assert type(again) is type(transform)
    ours = {module for module in named if module.split(".")[0] not in {*sys.stdlib_module_names, "apache_beam"}}
    assert {module.split(".")[0] for module in ours} == {"clipmill"}


def test_make_alone_prints_help() -> None:
    targets = ["bench", "check", "clean", "demo", "dist", "lint", "setup", "test", "test-beam", "test-installed"]
    shown = [line.split()[1] for line in run("make", cwd=ROOT).splitlines() if line.startswith("  make ")]
    assert {*targets, "typecheck"} <= set(shown)
