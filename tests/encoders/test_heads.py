"""Linear heads: every file layout gives torch's own scores; what does not fit is refused when the job is planned."""

from __future__ import annotations

import io
import itertools
import json
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cli_helpers import run
from contract import captions, vector_of_text
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from vectors_contract import scored

from clipmill import Head
from clipmill.datasets import read_provenance, rows_schema
from clipmill.datasets.tables.provenance import differences
from clipmill.encoders import EncoderSpec, Failure
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.plans.heads import HeadPlan
from clipmill.errors import SpecError, WeightsError
from clipmill.models import linear_head
from clipmill.models.linear_head import LinearHead, read_linear_head

DIM = 8
SPEC = EncoderSpec(f"fake::dim={DIM}")
TEXT = {"caption": "text"}


def linear(outputs: int = 1, dim: int = DIM) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(dim, outputs)


def planned(path: Path, columns=TEXT, fuse=None, **options) -> HeadPlan:
    (head,) = ColumnPlan.of(columns, spec=SPEC, fuse=fuse, heads={"aesthetic": Head(path, **options)}).heads
    return head


def scores(head: HeadPlan, vector: np.ndarray) -> np.ndarray:
    found = head.scores(vector)
    assert isinstance(found, list)
    return np.array(found)


# --- files -----------------------------------------------------------------------------------------------------------


def write(path: Path, layer: torch.nn.Linear, *, prefix: str = "") -> Path:
    """Write a layer in the format of the file's name."""
    state = {f"{prefix}{name}": tensor.detach() for name, tensor in layer.named_parameters()}
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    match path.suffix:
        case ".npy":
            np.save(path, np.concatenate([arrays["weight"], arrays["bias"][:, None]], axis=1))
        case ".npz":
            np.savez(path, **arrays)
        case ".safetensors":
            save_file(state, path)
        case _:
            torch.save(state, path)
    return path


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors", "a.pth", "a.pt", "a.bin"])
def test_every_format_gives_the_scores_of_torch(name: str, outputs: int, tmp_path: Path) -> None:
    layer = linear(outputs)
    head = planned(write(tmp_path / name, layer))
    for row in captions(3):
        vector = vector_of_text(row["caption"])
        expected = layer(torch.nn.functional.normalize(torch.from_numpy(vector)[None])).detach().numpy()[0]
        np.testing.assert_allclose(scores(head, vector), expected, rtol=0, atol=1e-6)
    assert head.names == (("aesthetic",) if outputs == 1 else tuple(f"aesthetic_{n}" for n in range(outputs)))


def test_names_may_have_a_prefix_and_the_bias_may_be_missing(tmp_path: Path) -> None:
    layer = linear(2)
    vector = vector_of_text("one")
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    assert scores(planned(write(tmp_path / "a.pt", layer, prefix="linear.")), vector) == pytest.approx(
        scored(weight, bias, vector), rel=1e-12
    )
    np.savez(tmp_path / "weight.npz", weight=weight)
    np.save(tmp_path / "weight.npy", weight)
    np.save(tmp_path / "flat.npy", np.asfortranarray(weight[0]))
    for name, expected in {"weight.npz": weight, "weight.npy": weight, "flat.npy": weight[:1]}.items():
        found = scores(planned(tmp_path / name), vector)
        assert found == pytest.approx(scored(expected, np.zeros(len(expected)), vector), rel=1e-12)


def test_the_published_predictors_of_aesthetics(tmp_path: Path) -> None:
    """In their layouts, with random weights: one layer, and five with dropout between them."""
    torch.manual_seed(1)
    first = torch.nn.Linear(768, 1)
    torch.save(first.state_dict(), tmp_path / "sa_0_4_vit_l_14_linear.pth")
    sizes = (768, 1024, 128, 64, 16)

    class Second(torch.nn.Module):
        def __init__(self, between: list[torch.nn.Module]) -> None:
            super().__init__()
            steps: list[torch.nn.Module] = []
            for before, after in itertools.pairwise(sizes):
                steps += [torch.nn.Linear(before, after), *between, torch.nn.Dropout(0.2)]
            del steps[-1]  # the last two follow each other
            self.layers = torch.nn.Sequential(*steps, torch.nn.Linear(16, 1))

        def forward(self, vectors: torch.Tensor) -> torch.Tensor:
            return self.layers(vectors)

    second = Second([]).eval()
    torch.save(second.state_dict(), tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    vectors = torch.randn(20, 768) * 3
    units = torch.nn.functional.normalize(vectors)
    for name, network in {"sa_0_4_vit_l_14_linear.pth": first, "sac+logos+ava1-l14-linearMSE.pth": second}.items():
        spec = EncoderSpec("ViT-L-14::openai")
        (head,) = ColumnPlan.of({"photo": "image"}, spec=spec, heads={"aesthetic": tmp_path / name}).heads
        expected = network(units).detach().numpy()[:, 0]
        found = np.concatenate([scores(head, vector.numpy()) for vector in vectors])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        raw = network(vectors).detach().numpy()[:, 0]
        assert np.abs(raw - expected).max() > 1e-2  # a control: they do depend on the length
    with_relu = Second([torch.nn.ReLU()])
    torch.save(with_relu.state_dict(), tmp_path / "ava+logos-l14-reluMSE.pth")
    with pytest.raises(WeightsError, match=r"reluMSE.*with activations between them, are not supported"):
        read_linear_head(tmp_path / "ava+logos-l14-reluMSE.pth", 768)


def test_a_head_without_torch(tmp_path: Path) -> None:
    """Files of numpy and safetensors need none; those of torch name the extra."""
    for name in ("a.npz", "a.safetensors", "a.pth"):
        write(tmp_path / name, linear())
    program = (
        "import sys, importlib.util as util; find = util.find_spec\n"
        "sys.modules['torch'] = None\n"
        "util.find_spec = lambda name, *more: None if name == 'torch' else find(name, *more)\n"
        "from clipmill.models.linear_head import read_linear_head\n"
        "for name in ('a.npz', 'a.safetensors', 'a.pth'):\n"
        f"    print(read_linear_head('{tmp_path}/' + name, {DIM}).outputs)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "1"], done.stderr
    assert "pip install 'clipmill[torch]'" in done.stderr


# --- files of untrusted authors --------------------------------------------------------------------------------------


class Harmful:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return (open, (str(self._path), "w"))


def npy(shape: tuple[int, ...], data: bytes, dtype: str = "<f4") -> bytes:
    """Return a `.npy` file whose header says what it likes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"", "cannot be read as a head"),
        ("a.npy", npy((10**9, DIM), b"\0" * 32), r"its header says \(1000000000, 8\)"),
        ("a.npy", npy((DIM,), b"\0" * 31), "not what its 31 bytes hold"),
        ("a.npy", npy((2,), b"\0" * 16, "|O"), "it holds object, not numbers"),
        ("a.npy", npy((DIM,), b"\0" * 64, "<c8"), "it holds complex64, not numbers"),
        ("a.npz", b"PK", "cannot be read as a head"),
        ("a.npz", zipped(weight=npy((10**9, DIM), b"\0")), "its header says"),
        ("a.npz", zipped(weight=npy((2**24, 2), bytes(2**27))), "its arrays have .* bytes, and a head has at most"),
        ("a.npz", zipped(other=npy((DIM,), bytes(4 * DIM))), "it has 'other'; a linear head has one 'weight'"),
        ("a.npz", zipped(), "it has no arrays"),
        ("a.safetensors", b"\xff" * 64, "cannot be read as a head"),
        ("a.pth", b"no archive", "is damaged, or no file of torch.save"),
        ("a.onnx", b"", "a head's file ends with .safetensors"),
    ],
)
def test_damaged_files_are_refused_before_memory_is_taken(name: str, content: bytes, message: str, tmp_path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as refused:
        read_linear_head(tmp_path / name, DIM)
    assert str(tmp_path / name) in str(refused.value)


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        data = pickle.dumps(Harmful(tmp_path / "ran"))
        archive.writestr("weight.npy", npy((), data, "|O"))
    torch.save({"weight": Harmful(tmp_path / "ran")}, tmp_path / "a.pth")
    for name in ("a.npz", "a.pth"):
        with pytest.raises(WeightsError):
            read_linear_head(tmp_path / name, DIM)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_module_is_refused_with_what_to_save(tmp_path: Path) -> None:
    torch.save(linear(), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes(b"\xff")
    with pytest.raises(WeightsError) as refused:
        read_linear_head(tmp_path / "whole.pth", DIM)
    assert "torch.save(model.state_dict(), path)" in str(refused.value)
    with pytest.raises(WeightsError) as damaged:
        read_linear_head(tmp_path / "cut.pth", DIM)
    assert "is damaged, or no file of torch.save" in str(damaged.value)
    for said in map(str, (refused.value, damaged.value)):
        assert "weights_only" not in said and "\x1b" not in said and "\n" not in said


def test_a_small_file_of_torch_that_claims_a_large_tensor(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1, 1).expand(2**24, DIM)}, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size < 10_000
    with pytest.raises(WeightsError, match="its values have over 67,108,864 bytes"):
        read_linear_head(tmp_path / "a.pth", DIM)


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
def test_small_types_are_bounded_by_their_values(kind: str, tmp_path: Path, monkeypatch) -> None:
    """A file within the bound may be several times as large in float64."""
    path, weight = tmp_path / f"a.{kind}", np.ones((60, DIM), np.float16)
    if kind == "npy":
        np.save(path, weight)
    elif kind == "npz":
        np.savez(path, weight=weight)
    else:
        save_arrays({"weight": weight}, str(path))
    assert path.stat().st_size < 2000 < weight.size * 8
    assert read_linear_head(path, DIM).outputs == 60
    monkeypatch.setattr(linear_head, "MAX_BYTES", 2000)
    with pytest.raises(WeightsError, match="its values have over 2,000 bytes in float64"):
        read_linear_head(path, DIM)


def test_layers_that_would_multiply_to_a_large_one_do_not(tmp_path: Path) -> None:
    """In LAION's layout, a column times a row of a megabyte each would be a matrix of 500 gigabytes."""
    many = 2**18
    shapes = {0: (1, many), 2: (many, 1), 4: (1, many), 6: (many, 1), 7: (1, many)}
    layers = {f"layers.{number}.weight": np.ones(shape, np.float32) for number, shape in shapes.items()}
    layers |= {f"layers.{number}.bias": np.ones(shape[0], np.float32) for number, shape in shapes.items()}
    save_arrays(layers, str(tmp_path / "a.safetensors"))
    with pytest.raises(WeightsError, match=f"it takes vectors of {many} values"):
        read_linear_head(tmp_path / "a.safetensors", DIM)
    layers["layers.7.weight"] = np.ones((2, many), np.float32)
    save_arrays(layers, str(tmp_path / "a.safetensors"))
    with pytest.raises(WeightsError, match=r"it must be \(1, values\)"):
        read_linear_head(tmp_path / "a.safetensors", DIM)


@pytest.mark.parametrize("name", ["layers.4.weight", "layers.6.bias"])
def test_layers_of_more_dimensions_are_no_layers(name: str, tmp_path: Path) -> None:
    """A column of (n, 1, 1) broadcasts, so that a bias of a few bytes would become n² values."""
    shapes = {0: (1, DIM), 2: (1, 1), 4: (1, 1), 6: (1, 1), 7: (1, 1)}
    layers = {f"layers.{number}.weight": np.ones(shape, np.float32) for number, shape in shapes.items()}
    layers |= {f"layers.{number}.bias": np.ones(1, np.float32) for number in shapes}
    save_arrays(layers, str(tmp_path / "a.safetensors"))
    assert read_linear_head(tmp_path / "a.safetensors", DIM).outputs == 1
    save_arrays({**layers, name: np.ones((40, 1, 1), np.float32)}, str(tmp_path / "a.safetensors"))
    with pytest.raises(WeightsError, match=rf"{name}.*\(40, 1, 1\).*a matrix and a vector"):
        read_linear_head(tmp_path / "a.safetensors", DIM)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "a.npz", linear())
    monkeypatch.setattr(linear_head, "MAX_BYTES", 100)
    with pytest.raises(WeightsError, match="bytes, and a head has at most 100"):
        read_linear_head(tmp_path / "a.npz", DIM)
    with pytest.raises(WeightsError, match="there is no file"):
        read_linear_head(tmp_path / "nothing.npz", DIM)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weight": np.ones((1, 9))}, "it takes vectors of 9 values, and these have 8"),
        ({"weight": np.ones((1, 2, 8))}, "the weight has the shape"),
        ({"weight": np.ones((0, 8))}, "the weight has the shape"),
        ({"weight": np.float64(1)}, "the weight has the shape"),
        (
            {"weight": np.ones((2, 8)), "bias": np.ones(3)},
            r"the bias has the shape \(3,\), and the weight has 2 outputs",
        ),
        ({"weight": np.full((1, 8), np.nan)}, "not finite"),
        ({"weight": np.ones(8), "bias": np.full(1, np.inf)}, "not finite"),
        ({"a.weight": np.ones(8), "b.weight": np.ones(8)}, "a linear head has one 'weight'"),
        ({"a.weight": np.ones(8), "b.bias": np.ones(1)}, "a linear head has one 'weight'"),
        ({"weight": np.array(["x"] * 8)}, "not numbers"),
    ],
    ids=str,
)
def test_what_is_no_linear_head_for_the_model_is_refused(arrays: dict, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(SpecError, match=f"for fake::dim=8: .*{message}") as refused:
        planned(tmp_path / "a.npz")
    assert refused.value.option == "heads"


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, "must be that of a file"),
        ({"path": 5}, "must be that of a file"),
        ({"path": "gs://models/head.npz"}, "is a URL"),
        ({"column": ""}, "must be a name"),
        ({"outputs": "safe"}, "must be names"),
        ({"outputs": ("safe", 5)}, "must be names"),
        ({"normalize": "no"}, "neither True nor False"),
        ({"activation": "tanh"}, "must be one of 'none', 'sigmoid', 'softmax'"),
    ],
    ids=str,
)
def test_invalid_options_are_refused_when_the_head_is_made(options: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message) as refused:
        Head(**{"path": "a.npz", **options})
    assert refused.value.option == next(iter(options))


def test_a_head_must_say_what_it_scores_if_there_are_several_vectors(tmp_path: Path) -> None:
    file = write(tmp_path / "a.npz", linear(2))
    both = {"caption": "text", "photo": "image"}
    fuse = {"embedding": {"caption": 1, "photo": 1}}
    assert planned(file).column == "caption"
    assert planned(file, both, column="photo").column == "photo"
    assert planned(file, both, fuse, column="embedding").column == "embedding"
    for columns, options, message in (
        (both, {}, "does not say what it scores.*'caption', 'photo'"),
        (both, {"fuse": fuse}, "does not say what it scores.*'caption', 'photo', 'embedding'"),
        (TEXT, {"column": "title"}, "scores 'title', which is not embedded"),
        (TEXT, {"outputs": ("one",)}, "has 2 scores, and outputs names 1"),
    ):
        with pytest.raises(SpecError, match=message) as refused:
            planned(file, columns, **options)
        assert refused.value.option == "heads"
    with pytest.raises(SpecError, match="whose softmax is always 1"):
        planned(write(tmp_path / "one.npz", linear()), activation="softmax")
    for heads in ("a.npz", {"": "a.npz"}, {"aesthetic": 5}):
        with pytest.raises(SpecError, match="heads="):
            ColumnPlan.of(TEXT, spec=SPEC, heads=heads)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="two output columns have the same name"):
        ColumnPlan.of(TEXT, spec=SPEC, heads={"caption_embedding": str(write(tmp_path / "one.npz", linear()))})


def test_a_head_fits_the_cut_vectors(tmp_path: Path) -> None:
    file = write(tmp_path / "a.npz", linear(dim=3))
    spec = EncoderSpec(SPEC.model, dimensions=3, force_dimensions=True)
    assert ColumnPlan.of(TEXT, spec=spec, heads={"a": str(file)}).heads[0].linear.dim == 3
    with pytest.raises(SpecError, match="it takes vectors of 3 values, and these have 8"):
        ColumnPlan.of(TEXT, spec=SPEC, heads={"a": str(file)})


def test_vectors_that_cannot_be_scored(tmp_path: Path) -> None:
    zeros, large = np.zeros(DIM, np.float32), np.full(DIM, 3e38, np.float32)
    head = planned(write(tmp_path / "a.npz", linear(2)))
    failure = head.scores(zeros)
    assert isinstance(failure, Failure) and (failure.column, failure.code) == ("aesthetic_0", "out_of_range")
    assert planned(tmp_path / "a.npz", normalize=False).scores(zeros) == pytest.approx(linear(2).bias.tolist())
    assert head.scores(None) == [None, None]
    failure = head.scores([large])
    assert isinstance(failure, Failure) and (failure.column, failure.code) == ("caption", "unsupported")
    np.savez(tmp_path / "huge.npz", weight=np.full((1, DIM), 1e300))
    failure = planned(tmp_path / "huge.npz", normalize=False).scores(large)
    assert isinstance(failure, Failure) and (failure.column, failure.code) == ("aesthetic", "out_of_range")
    (low, high) = (planned(tmp_path / "huge.npz", activation="sigmoid").scores(sign * large) for sign in (-1, 1))
    assert (low, high) == ([0.0], [1.0])


@pytest.mark.parametrize(
    "options", [{}, {"normalize": False}, {"activation": "sigmoid"}, {"activation": "softmax"}], ids=str
)
def test_vectors_that_exist_are_scored_alike(options: dict, tmp_path: Path) -> None:
    file = write(tmp_path / "a.npz", linear(3))
    vectors = np.stack([vector_of_text(row["caption"]) for row in captions(6)])
    found = Head(file, **options).score(vectors)
    assert found.shape == (6, 3)
    head = planned(file, **options)
    np.testing.assert_allclose(found, [head.scores(vector) for vector in vectors], rtol=1e-12)
    assert Head(file).score(np.empty((0, DIM))).shape == (0, 3)
    assert np.isnan(Head(file).score(np.zeros((1, DIM)))).all()
    with pytest.raises(ValueError, match=r"the shape \(8,\); a head scores \(n, dim\)"):
        Head(file).score(vectors[0])
    with pytest.raises(WeightsError, match="it takes vectors of 8 values, and these have 7"):
        Head(file).score(vectors[:, :7])


def test_vectors_of_any_length_are_scored_alike(tmp_path: Path) -> None:
    """Also where the squares of their values are no numbers of float64, and without a warning."""
    np.savez(tmp_path / "a.npz", weight=np.eye(DIM)[:2])
    vectors = np.array([3.0, 4.0, *[0.0] * (DIM - 2)]) * np.array([[1.0], [1e200], [1e-200], [1e-310]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Head(tmp_path / "a.npz").score(vectors)
        assert found == pytest.approx(np.tile([0.6, 0.8], (4, 1)), rel=1e-12)
        head = planned(tmp_path / "a.npz")
        assert [head.scores(vector) for vector in vectors] == found.tolist()


def test_a_softmax_of_one_score_is_refused_there_too(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="whose softmax is always 1") as refused:
        Head(write(tmp_path / "a.npz", linear()), activation="softmax").score(np.ones((1, DIM)))
    assert refused.value.option == "activation"


def test_arrays_are_refused_where_types_are_known(tmp_path: Path) -> None:
    plan = ColumnPlan.of({"captions": "text"}, spec=SPEC, heads={"a": str(write(tmp_path / "a.npz", linear()))})
    arrays = pa.schema([("id", pa.string()), ("captions", pa.list_(pa.string()))])
    with pytest.raises(SpecError, match="column 'captions' holds arrays") as refused:
        rows_schema(arrays, plan, SPEC)
    assert refused.value.option == "heads"


def test_a_plan_needs_its_file_no_more(tmp_path: Path) -> None:
    """Workers get the values; equal heads are equal."""
    file = write(tmp_path / "a.npz", linear())
    plan, other = (ColumnPlan.of(TEXT, spec=SPEC, heads={"a": Head(file)}) for _ in range(2))
    file.unlink()
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan == other
    assert again.heads[0].scores(vector_of_text("one")) == plan.heads[0].scores(vector_of_text("one"))
    assert isinstance(again.heads[0].linear, LinearHead)
    assert len(pickle.dumps(plan)) < 2000


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in captions(5)))
    return tmp_path / "rows.jsonl"


def embed(table: Path, output: Path, *more: object) -> int:
    return run("embed", table, "-o", output, "--model", SPEC.model, "--column", "caption=text", *more)


def test_the_command_line_adds_scores_and_says_which_head_made_them(table: Path, tmp_path: Path, capsys) -> None:
    layer = linear()
    file = write(tmp_path / "weights.safetensors", layer)
    assert embed(table, tmp_path / "out", "--head", f"aesthetic={file}") == 0
    found = {row["id"]: row["aesthetic"] for row in pq.read_table(tmp_path / "out").to_pylist()}
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    for row in captions(5):
        expected = scored(weight, bias, vector_of_text(row["caption"]))[0]
        assert found[row["id"]] == pytest.approx(expected, rel=1e-12)
    assert pq.read_schema(next((tmp_path / "out").glob("*.parquet"))).field("aesthetic").type == pa.float64()
    provenance = read_provenance(str(tmp_path / "out"))["aesthetic"]
    head = {"output": 0, "normalize": True, "activation": "none"}
    assert provenance["head"] == head | {"sha256": read_linear_head(file, DIM).sha256}
    assert provenance["head_file"] == "weights.safetensors"
    assert differences(provenance, provenance | {"head": head | {"sha256": "other"}}) == ["head"]
    # the same file, wherever it is now, resumes the job; another one does not, and skips no rows
    moved = file.rename(tmp_path / "moved.safetensors")
    assert embed(table, tmp_path / "out", "--head", f"aesthetic:caption={moved}", "--resume") == 0
    torch.manual_seed(5)
    other = write(tmp_path / "other.npz", torch.nn.Linear(DIM, 1))
    capsys.readouterr()
    assert embed(table, tmp_path / "out", "--head", f"aesthetic={other}", "--resume") == 2
    assert "head" in capsys.readouterr().err
    assert embed(table, tmp_path / "new", "--head", f"aesthetic={other}", "--skip-existing", tmp_path / "out") == 2
    assert "head is" in capsys.readouterr().err


def test_a_row_with_a_score_is_written_although_another_column_failed(tmp_path: Path) -> None:
    """Also where the scored vector itself is not written."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "a", "caption": "a dog", "title": ""}) + "\n")
    file = write(tmp_path / "a.npz", linear())
    parts = ("--column", "title=text", "--fuse", "both=caption:1,title:1", "--no-keep-parts")
    assert embed(tmp_path / "rows.jsonl", tmp_path / "out", *parts, "--head", f"aesthetic:caption={file}") == 0
    (row,) = pq.read_table(tmp_path / "out").to_pylist()
    assert row["both"] is None and row["aesthetic"] == scores(planned(file), vector_of_text("a dog"))[0]


def test_scores_are_no_vectors_for_an_index(table: Path, tmp_path: Path) -> None:
    assert embed(table, tmp_path / "out", "--head", f"aesthetic={write(tmp_path / 'a.npz', linear(3))}") == 0
    assert run("index", tmp_path / "out", "-o", tmp_path / "index") == 0
    assert run("report", tmp_path / "out", "-o", tmp_path / "report.html") == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["aesthetic"], "is not of the form NAME=FILE"),
        (["=a.npz"], "is not of the form NAME=FILE"),
        (["aesthetic:=a.npz"], "is not of the form NAME=FILE"),
        (["aesthetic=nothing.npz"], "--head"),
        (["aesthetic=a.npz"] * 2, "gives 'aesthetic' twice"),
    ],
    ids=str,
)
def test_slips_in_the_flag_are_named(given: list[str], message: str, table: Path, tmp_path: Path, capsys) -> None:
    assert embed(table, tmp_path / "out", *(word for one in given for word in ("--head", one))) == 2
    assert message in capsys.readouterr().err


def test_documents_have_no_heads(table: Path, tmp_path: Path, capsys) -> None:
    file = write(tmp_path / "a.npz", linear())
    assert run("embed", table, "-o", tmp_path / "out", "--model", SPEC.model, "--head", f"aesthetic={file}") == 2
    assert "--head is for rows; it has no effect without --column" in capsys.readouterr().err
