"""Models by strangers: nothing of a directory or repository is run, and odd files are errors that name them."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clap_weights
import jina_clip_weights
import numpy as np
import pytest
import torch
import transformers
from hub_cache import put_repository
from hugging_face_weights import EXACT, drawn_clip, small_config, write_model
from odd_values import ODD, changed, places
from onnx import TensorProto, helper
from transformers.integrations import hub_kernels
from untrusted_files import PLAIN_TOKENIZER, TOKENIZER, look_at, sign, write_export

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import WeightsError
from clipmill.failures import Code, RowError, Stage
from clipmill.models.catalog.facts import facts_of
from clipmill.models.catalog.manifest import FILE, write_manifest
from clipmill.models.demo import demo_directory
from clipmill.models.tokenizers.fast import FastTokenizer
from clipmill.models.towers import find_source
from clipmill.models.towers.open_clip import find_backbone

CODE = "import pathlib; pathlib.Path({mark!r}).write_text('run')\nclass Model: pass\nclass Tokenizer: pass\n"


@pytest.fixture(autouse=True)
def _forget_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    unload_all()
    facts_of.cache_clear()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("small"), drawn_clip(small_config()))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("exported") / "demo")


def _edit(path: Path, change: Callable[[dict], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


# --- Hugging Face ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_code_beside_a_model_is_not_run(weights: str, small: Path, tmp_path: Path) -> None:
    """As a repository with code of its own is written: `auto_map`, custom classes and kernels, in every file."""
    model, mark = shutil.copytree(small, tmp_path / "model"), tmp_path / "mark"
    for name in ("modeling_own.py", "tokenization_own.py", "configuration_own.py", "image_processing_own.py"):
        (model / name).write_text(CODE.format(mark=str(mark)))
    automatic = {"AutoConfig": "configuration_own.Model", "AutoModel": "modeling_own.Model"}
    automatic |= {
        "AutoTokenizer": ["tokenization_own.Tokenizer", None],
        "AutoImageProcessor": "image_processing_own.Model",
    }
    odd = {"auto_map": automatic, "trust_remote_code": True, "custom_pipelines": {"x": {"impl": "modeling_own.Model"}}}
    odd |= {"use_kernels": True, "attn_implementation": "kernels-community/flash-attn2"}
    expected = load_encoder(f"hf:{small}", **EXACT).embed_texts(["a"])
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        _edit(model / name, lambda values: values.update(odd))
    _edit(model / "config.json", lambda values: values["text_config"].update(odd, _attn_implementation="own/kernel"))
    _edit(model / "tokenizer_config.json", lambda values: values.update(tokenizer_class="Tokenizer"))
    if weights == "bin":
        (model / "model.safetensors").unlink()
        torch.save(dict(drawn_clip(small_config()).state_dict()), model / "pytorch_model.bin")
    assert np.allclose(load_encoder(f"hf:{model}", **EXACT).embed_texts(["a"]), expected, atol=1e-5)
    assert not mark.exists() and not {"modeling_own", "tokenization_own"} & set(sys.modules)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "_experts_implementation", "auto_map"])
def test_a_configuration_of_audio_and_texts_imports_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would fetch the repository of a kernel, whether the whole model names it or a tower."""
    fetched: list[object] = []
    monkeypatch.setattr(hub_kernels, "get_kernel", lambda *given, **options: fetched.append(given))
    case = clap_weights.write(tmp_path / "model", clap_weights.drawn(clap_weights.config()))
    expected = load_encoder(case.model, **EXACT).embed_texts(["a"])
    unload_all()
    odd = {name: "evil/repo"}
    _edit(
        case.directory / "config.json",
        lambda values: [part.update(odd) for part in (values, values["text_config"], values["audio_config"])],
    )
    assert "evil/repo" not in json.dumps(dict(find_source(EncoderSpec(case.model)).settings))
    assert np.array_equal(load_encoder(case.model, **EXACT).embed_texts(["a"]), expected) and not fetched


class _Mark:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self._path),)


def test_a_pickle_beside_a_model_is_not_run(small: Path, tmp_path: Path) -> None:
    model = shutil.copytree(small, tmp_path / "model")
    (model / "model.safetensors").unlink()
    file, mark = model / "pytorch_model.bin", _Mark(tmp_path / "mark")
    for content in ({"state_dict": mark}, {"a": torch.ones(1), "b": mark}, mark):
        for write, reason in (
            (torch.save, "holds objects made by code"),
            (lambda content, path: path.write_bytes(pickle.dumps(content)), r"is damaged, or no file of torch\.save"),
        ):
            write(content, file)
            with pytest.raises(WeightsError, match=reason):
                load_encoder(f"hf:{model}", **EXACT)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "auto_map"])
def test_a_text_tower_of_a_repository_imports_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would fetch a kernel that a configuration names, and import it."""
    fetched: list[object] = []
    monkeypatch.setattr(hub_kernels, "get_kernel", fetched.append)
    config = {"model_type": "roberta", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"intermediate_size": 32, "vocab_size": 50, name: "kernels-community/flash-attn2"}
    put_repository(tmp_path / "huggingface", "own/tower", {"config.json": json.dumps(config).encode()})
    backbone = find_backbone("own/tower", str(tmp_path))
    assert name not in backbone and backbone["hidden_size"] == 32
    (tmp_path / "config.json").write_text(json.dumps(backbone))
    module = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
    assert module.config._attn_implementation in ("sdpa", "eager") and not fetched


def test_only_what_names_code_is_left_out_of_a_configuration(tmp_path: Path) -> None:
    """A size decides the architecture; without it, the tower would silently be another one."""
    config = {"model_type": "bert", "conv_kernel_size": 5, "hidden_size": 32, "use_kernels": True}
    put_repository(tmp_path / "huggingface", "own/tower", {"config.json": json.dumps(config).encode()})
    backbone = find_backbone("own/tower", str(tmp_path))
    assert backbone == {"model_type": "bert", "conv_kernel_size": 5, "hidden_size": 32}


def test_an_image_tower_from_elsewhere_is_refused(tmp_path: Path) -> None:
    """The library timm would fetch the configuration of another repository, or read another directory."""
    for tower in ("hf-hub:own/tower", "local-dir:/tmp/tower"):
        config = {"model_cfg": {"embed_dim": 8, "vision_cfg": {"timm_model_name": tower}, "text_cfg": {}}}
        name = f"own/{tower.partition(':')[0]}"
        put_repository(tmp_path / "huggingface", name, {"open_clip_config.json": json.dumps(config).encode()})
        (tmp_path / "huggingface" / f"models--{name.replace('/', '--')}" / "snapshots").mkdir(exist_ok=True)
        folder = next((tmp_path / "huggingface" / f"models--{name.replace('/', '--')}" / "snapshots").iterdir())
        (folder / "open_clip_model.safetensors").write_bytes(b"")
        with pytest.raises(WeightsError, match="architecture of timm"):
            find_source(EncoderSpec(f"hf-hub:{name}", cache_dir=str(tmp_path)))


# --- graphs ----------------------------------------------------------------------------------------------------------


def _graph_with_weights_at(location: str, path: Path) -> None:
    """Write the graph of an image tower whose one weight is in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[96], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(96 * 4))):
        weight.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["m", "one"], ["u"]),
        helper.make_node("Mul", ["u", "w"], ["y"]),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    shapes = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 64, 64, 3]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 96]),
    ]
    graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], [weight, one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_graph_reads_no_file_outside_of_its_directory(runtime: str, exported: Path, tmp_path: Path) -> None:
    """Their vectors would show what is in it."""
    model = shutil.copytree(exported, tmp_path / "model")
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(96, dtype=np.float32).tobytes())
    (model / "link.bin").symlink_to(secret)
    (model / "folder").symlink_to(tmp_path)
    (model / "inside.bin").write_bytes(np.ones(96, np.float32).tobytes())
    places = ["inside.bin", "../secret.bin", str(secret), "link.bin", "folder/secret.bin", "*/_ORT_MEM_ADDR_/*"]
    for place in places:
        unload_all()
        _graph_with_weights_at(place, model / "image.onnx")
        sign(model, graphs={"image": "image.onnx"}, modalities=["image"], text=None)
        options = {"device": "cpu", "precision": "fp32", "runtime": runtime}
        if place == "inside.bin":
            vectors = load_encoder(f"onnx:{model}", **options).embed_images([np.full((64, 64, 3), 4, np.uint8)])
            assert np.allclose(vectors, 4)
            continue
        with pytest.raises(WeightsError):
            load_encoder(f"onnx:{model}", **options)


def test_graphs_are_listed_with_all_their_files(exported: Path, tmp_path: Path) -> None:
    """Files that are not listed have no hash, and other kinds of files are read by other parts of OpenVINO."""
    model = shutil.copytree(exported, tmp_path / "model")
    for name in ("image.xml", "image.pb", "image.tflite", "image.onnx.bin", "other.onnx"):
        (model / name).write_bytes(b"x")
        listed = {"files": {"image.xml": "0"}} if name == "image.xml" else {}
        sign(model, graphs={"image": name}, **listed)
        with pytest.raises(WeightsError, match="must end with"):
            load_encoder(f"onnx:{model}", device="cpu", runtime="openvino")
    for name in ("../image.onnx", "..", "a/b.onnx", "", "/etc/passwd", "a\0.onnx", 5):
        sign(model, graphs={"image": name})
        with pytest.raises(WeightsError):
            load_encoder(f"onnx:{model}", device="cpu", runtime="openvino")


# --- descriptions ----------------------------------------------------------------------------------------------------


def _odd_values(path: Path, count: int) -> Iterator[Any]:
    """Yield a file's content with one value changed, drawn with a seed."""
    content = json.loads(path.read_text())
    cases = [(at, odd) for at in places(content) for odd in ODD]
    for at, odd in random.Random(path.name).sample(cases, min(count, len(cases))):
        yield changed(content, at, odd)


def test_odd_values_in_a_manifest_are_errors_of_ours(exported: Path, tmp_path: Path) -> None:
    model = shutil.copytree(exported, tmp_path / "model")
    content = json.loads((model / FILE).read_text())
    for odd in _odd_values(model / FILE, 40):
        if isinstance(odd, dict) and odd.get("format") == content["format"]:
            write_manifest(model, {name: one for name, one in odd.items() if name not in ("format", "manifest_sha256")})
        else:
            (model / FILE).write_text(json.dumps(odd))
        look_at(f"onnx:{model}")


def test_odd_values_of_a_hugging_face_model_are_errors_of_ours(small: Path, tmp_path: Path) -> None:
    model = shutil.copytree(small, tmp_path / "model")
    for name, count in (("config.json", 12), ("preprocessor_config.json", 12), ("tokenizer_config.json", 4)):
        content = (model / name).read_bytes()
        for odd in _odd_values(model / name, count):
            (model / name).write_text(json.dumps(odd))
            look_at(f"hf:{model}")
        (model / name).write_bytes(content)


def test_odd_values_of_a_jina_clip_model_are_errors_of_ours(tmp_path: Path) -> None:
    """Its towers are built from what its files say, without a library that checks them."""
    model = jina_clip_weights.write_model(tmp_path / "model")
    for name, count in (("config.json", 40), ("preprocessor_config.json", 12)):
        content = (model / name).read_bytes()
        for odd in _odd_values(model / name, count):
            (model / name).write_text(json.dumps(odd))
            look_at(f"hf:{model}")
        (model / name).write_bytes(content)


def test_odd_values_of_an_open_clip_repository_are_errors_of_ours(tmp_path: Path) -> None:
    files = {
        name: (demo_directory() / name).read_bytes() for name in os.listdir(demo_directory()) if "open_clip" in name
    }
    folder = put_repository(tmp_path / "huggingface", "own/model", files)
    path = folder / "open_clip_config.json"
    path.unlink()
    path.write_bytes(files[path.name])  # no longer a link, so that no hash is known
    for odd in _odd_values(path, 25):
        path.write_text(json.dumps(odd))
        look_at("hf-hub:own/model", cache_dir=str(tmp_path))


def test_odd_tokenizers_are_errors_of_ours() -> None:
    """The library is written in Rust, whose panics are no `Exception`."""
    cases = [(at, odd) for at in places(TOKENIZER) for odd in ODD]
    for at, odd in random.Random(1).sample(cases, 400):
        try:
            tokenizer = FastTokenizer(json.dumps(changed(TOKENIZER, at, odd)), 8, 0)
            tokenizer("a b c")
        except (WeightsError, RowError):
            pass


def test_a_panic_at_a_definition_is_an_error() -> None:
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    with pytest.raises(WeightsError, match=r"invalid tokenizer\.json"):
        FastTokenizer(json.dumps({**PLAIN_TOKENIZER, "normalizer": normalizer}), 8, 0)


def test_a_panic_at_a_text_fails_its_row() -> None:
    """A pattern that gives up on a long text, so that the author of a text decides when."""
    split = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Removed", "invert": False}
    tokenizer = FastTokenizer(json.dumps({**PLAIN_TOKENIZER, "pre_tokenizer": split}), 8, 0)
    assert tokenizer("a")[0].tolist() == [0]
    with pytest.raises(RowError) as caught:
        tokenizer("x" * 50)
    assert (caught.value.failure.stage, caught.value.failure.code) == (Stage.TOKENIZE, Code.ENCODE_FAILED)
