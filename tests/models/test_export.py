"""Exported directories: complete, verified, loaded without torch."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_helpers import run
from click.testing import CliRunner
from pictures import photographs
from weights import relative_error

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import DatasetError, DeviceError, SpecError, WeightsError
from clipmill.messages import Setting
from clipmill.models import exporting
from clipmill.models.catalog.manifest import FILE, write_manifest
from clipmill.models.exporting import export_model
from clipmill.models.frontend import Frontend
from clipmill.models.tokenizers.clip_bpe import ClipTokenizer
from clipmill.models.tokenizers.fast import FastTokenizer
from clipmill.models.tokenizers.saved import load_tokenizer, save_tokenizer
from clipmill.pipelines.cli import cli

TEXTS = ["a red circle", "she smiled, with pain", "ÜBER-straße 日本 🙂 &amp;", "word " * 200]
TOLERANCE, VISIBLE = 1e-4, 1e-2


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """The demo model, exported by the command line."""
    folder = tmp_path_factory.mktemp("exported") / "demo"
    done = CliRunner().invoke(cli, ["export", "demo", str(folder)])
    assert done.exit_code == 0, done.output
    assert f"onnx:{folder}" in done.output
    return folder


@pytest.fixture
def copy(directory: Path, tmp_path) -> Path:
    """A copy to damage."""
    yield Path(shutil.copytree(directory, tmp_path / "copy"))
    unload_all()


@pytest.mark.parametrize("step", ["copyfile", "save_tokenizer", "write_manifest", "rename"])
def test_a_full_disk_leaves_nothing(step: str, directory: Path, tmp_path: Path, monkeypatch) -> None:
    """The graphs are in the cache already, since `directory` was exported."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = {"copyfile": shutil, "rename": Path}.get(step, exporting)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, full)
        with pytest.raises(DatasetError, match=r"cannot write .*/model: no space left on device"):
            export_model(EncoderSpec("demo"), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def exact_vectors() -> tuple[np.ndarray, np.ndarray]:
    encoder = load_encoder("demo", device="cpu", runtime="torch", precision="fp32")
    return encoder.embed_texts(TEXTS), encoder.embed_images(list(photographs().values()))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_exported_model_gives_the_same_vectors(runtime: str, directory: Path) -> None:
    """With the same truncation and crops, in either runtime; and the facts are known before loading."""
    spec = EncoderSpec(f"onnx:{directory}", device="cpu", runtime=runtime, precision="fp32")
    assert (spec.dim, spec.modalities) == (EncoderSpec("demo").dim, EncoderSpec("demo").modalities)
    assert spec.facts.preprocessing == EncoderSpec("demo").facts.preprocessing
    encoder = load_encoder(spec)
    texts, images = exact_vectors()
    assert relative_error(encoder.embed_texts(TEXTS), texts) <= TOLERANCE
    assert relative_error(encoder.embed_images(list(photographs().values())), images) <= TOLERANCE
    known = load_encoder("demo", device="cpu", runtime="torch", precision="fp32").resolved["weights_sha256"]
    assert encoder.resolved["weights_sha256"] == known
    assert encoder.resolved["exported_from"] == "demo"


def test_it_is_loaded_without_torch_and_open_clip(directory: Path) -> None:
    """Even if importing them fails; with `auto` and given options."""
    program = (
        "import sys\n"
        "for name in ('torch', 'open_clip', 'onnx', 'transformers'): sys.modules[name] = None\n"
        "import importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if sys.modules.get(name, 1) is None else find(name, *more)\n"
        "from clipmill.encoders import load_encoder\n"
        f"for options in ({{}}, {{'runtime': 'onnx', 'precision': 'fp32'}}):\n"
        f"    print(load_encoder('onnx:{directory}', **options).embed_texts(['a red circle']).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=os.sep)
    assert done.stdout.split("\n")[:2] == ["(1, 96)"] * 2, done.stderr


def test_a_directory_runs_as_exported_unless_the_spec_differs(tmp_path) -> None:
    """`auto` resolves to the export's runtime and precision; int8 graphs run only in int8 and their runtime."""
    export_model(EncoderSpec("demo", runtime="onnx", precision="fp32"), tmp_path / "exact")
    assert _taken(f"onnx:{tmp_path}/exact") == ("onnx", "fp32")
    assert _taken(f"onnx:{tmp_path}/exact", runtime="openvino", precision="fp32") == ("openvino", "fp32")
    manifest = export_model(EncoderSpec("demo", runtime="onnx", precision="int8"), tmp_path / "small")
    assert 0.99 < manifest["checked_cosine"] < 1
    assert _taken(f"onnx:{tmp_path}/small") == ("onnx", "int8")
    with pytest.raises(SpecError, match=r"it can in onnx int8 on cpu"):
        load_encoder(f"onnx:{tmp_path}/small", device="cpu", precision="fp32")
    with pytest.raises(SpecError, match=r"it can in onnx int8 on cpu"):
        load_encoder(f"onnx:{tmp_path}/small", device="cpu", runtime="openvino")
    with pytest.raises(SpecError) as refused:
        load_encoder(f"onnx:{tmp_path}/small", device="cpu", runtime="torch")
    assert refused.value.option == "runtime"


def _taken(model: str, **options: str) -> tuple[str, str]:
    resolved = load_encoder(model, device="cpu", **options).resolved
    return resolved["runtime"], resolved["precision"]


def test_float16_graphs_are_made_here_and_run_on_a_gpu(tmp_path) -> None:
    """The graph is right, as ONNX Runtime's CPU kernels show; as an encoder it needs CUDA."""
    export_model(EncoderSpec("demo", runtime="onnx", precision="fp16"), tmp_path / "half")
    with pytest.raises(DeviceError, match="onnx fp16 on cuda"):
        load_encoder(f"onnx:{tmp_path}/half")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    )  # 1.31 crashes at higher levels
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(tmp_path / "half/text.onnx"), options, providers=providers)
    tokenizer = ClipTokenizer()
    vector = session.run(None, {"input_ids": tokenizer(TEXTS[0])[0][None]})[0]
    assert vector.dtype == np.float32
    error = relative_error(vector, exact_vectors()[0][:1])
    assert 1e-5 < error < 5e-3, "float16, not float32 and not noise"
    types = {initializer.data_type for initializer in onnx.load(tmp_path / "half/text.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types and onnx.TensorProto.FLOAT not in types
    for name in ("text", "image", "normalised_image"):
        onnx.checker.check_model(str(tmp_path / "half" / f"{name}.onnx"), full_check=True)


def test_a_directory_is_replaced_only_on_request_and_atomically(directory: Path, tmp_path, monkeypatch) -> None:
    """Foreign files are never removed; a failed export leaves the old directory."""
    target = Path(shutil.copytree(directory, tmp_path / "target"))
    with pytest.raises(DatasetError, match="is not empty") as refused:
        export_model(EncoderSpec("demo"), target)
    assert Setting("overwrite", True) in refused.value.text.parts
    (target / "old").write_text("of the earlier export")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="disk"):
        patch.setattr("clipmill.models.exporting.write_manifest", _fail)
        export_model(EncoderSpec("demo"), target, overwrite=True)
    assert (target / "old").exists() and (target / FILE).exists()
    umask = os.umask(0o027)
    for flag, code in (([], 1), (["--overwrite"], 0)):
        assert run("export", "demo", target, *flag) == code
        assert (target / "old").exists() == (code != 0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o750
    assert [path.name for path in tmp_path.iterdir()] == ["target"], "drafts are gone"
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DatasetError, match="was not made by an export"):
        export_model(EncoderSpec("demo"), foreign, overwrite=True)
    with pytest.raises(DatasetError, match="is not a directory"):
        export_model(EncoderSpec("demo"), tmp_path / "none" / "below")


def _fail(*_: object) -> None:
    raise RuntimeError("disk")


def test_models_that_cannot_be_exported_are_refused(directory: Path, tmp_path) -> None:
    with pytest.raises(SpecError, match="'onnx' or 'openvino', not 'torch'"):
        export_model(EncoderSpec("demo", runtime="torch"), tmp_path / "x")
    with pytest.raises(SpecError, match="copy it"):
        export_model(EncoderSpec(f"onnx:{directory}"), tmp_path / "x")
    done = CliRunner().invoke(cli, ["export", "demo", str(tmp_path / "x"), "--runtime", "torch"])
    assert done.exit_code == 2 and "openvino" in done.output
    assert not list(tmp_path.iterdir())


def _edit(folder: Path, *, signed: bool = True, **values: object) -> None:
    """Change a manifest, like another version of clipmill or (not signed) like an edit by hand."""
    manifest = {**json.loads((folder / FILE).read_text()), **values}
    if signed:
        del manifest["manifest_sha256"]
        write_manifest(folder, {k: v for k, v in manifest.items() if v is not _GONE})
    else:
        (folder / FILE).write_text(json.dumps(manifest))


_GONE = object()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "text.data").unlink(), r"lacks 'text.data'"),
        (lambda d: (d / "text.data").write_bytes((d / "text.data").read_bytes()[:-1] + b"x"), r"text.data' differs"),
        (lambda d: (d / "image.onnx").write_bytes(b""), r"image.onnx' differs from the exported file"),
        (lambda d: (d / FILE).write_text("{"), r"clipmill.json' cannot be read"),
        (lambda d: (d / FILE).write_text("[]"), r"is not a JSON object"),
        (lambda d: _edit(d, format=2), r"has the format 2, and this version reads 1"),
        (lambda d: _edit(d, graphs=_GONE), r"lacks valid values of 'graphs'; export"),
        (lambda d: _edit(d, files={"../w": "0"}), r"'../w', which is not a file in its directory"),
        (lambda d: _edit(d, signed=False, weights_sha256="0"), r"was changed since `clipmill export` wrote it"),
        (lambda d: (d / FILE).unlink(), r"neither a clipmill.json .* nor textual.onnx and visual.onnx"),
        (shutil.rmtree, r"no directory .*`clipmill export` writes one"),
    ],
)  # fmt: skip
def test_damaged_directories_are_refused(damage, message: str, copy: Path) -> None:
    """A missing or changed file, another format, no manifest: each has its message."""
    damage(copy)
    with pytest.raises(WeightsError, match=message):
        load_encoder(f"onnx:{copy}", device="cpu", runtime="onnx", precision="fp32")


def test_graphs_of_another_model_are_refused(copy: Path, monkeypatch) -> None:
    """A manifest with another dimension than its graphs."""
    _edit(copy, dim=512)
    with pytest.raises(WeightsError, match=r"returns \(2, 96\) for 2 rows; its model has 512"):
        load_encoder(f"onnx:{copy}", device="cpu", runtime="onnx", precision="fp32")


def test_hashes_are_computed_once(copy: Path, monkeypatch) -> None:
    """The second load uses the notes next to the files."""
    load_encoder(f"onnx:{copy}", device="cpu", runtime="onnx", precision="fp32")
    unload_all()
    read = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (read.append(self.name), real(self, *a, **k))[1])
    load_encoder(f"onnx:{copy}", device="cpu", runtime="onnx", precision="fp32")
    assert "text.data" not in read


def test_saved_tokenizers_are_loaded_unchanged(tmp_path) -> None:
    """CLIP's with another limit; a `tokenizer.json` with its cleaning, padding and limits."""
    settings = save_tokenizer(ClipTokenizer(77, max_tokens=9), tmp_path)
    again = load_tokenizer(json.loads(json.dumps(settings)), tmp_path)
    for text in TEXTS:
        np.testing.assert_array_equal(again(text)[0], ClipTokenizer(77, max_tokens=9)(text)[0])
    assert load_tokenizer(settings, tmp_path, max_tokens=5)(TEXTS[3])[0].shape == (5,)
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "red": 2, "circle": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = FastTokenizer(words.to_str(), 12, 7, "whitespace", blank_id=2, max_tokens=3)
    again = load_tokenizer(json.loads(json.dumps(save_tokenizer(fast, tmp_path))), tmp_path)
    assert (again.context_length, again.pad_id) == (12, 7)
    for text in TEXTS:
        np.testing.assert_array_equal(again(text)[0], fast(text)[0])
    assert again("a red circle")[0].tolist() == [1, 0, 3]
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(WeightsError, match="not a table of CLIP's merges"):
        load_tokenizer(settings, tmp_path)


def test_the_frontend_of_a_directory_is_that_of_its_model(directory: Path) -> None:
    """All settings of preparation are kept, for each modality."""
    from clipmill.models.towers import find_source

    ours = find_source(EncoderSpec(f"onnx:{directory}")).frontend
    theirs = find_source(EncoderSpec("demo")).frontend
    for field in dataclasses.fields(Frontend):
        if field.name != "text":
            assert getattr(ours, field.name) == getattr(theirs, field.name)
    for name in ("fixed_length", "masked"):
        assert getattr(ours.text, name) == getattr(theirs.text, name)
