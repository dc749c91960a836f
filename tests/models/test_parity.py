"""Rows of docs/parity.md, with small models: runtimes against the reference, reduced precisions against float32.

`make parity` compares all of them in their real sizes.
"""

from __future__ import annotations

import numpy as np
import pytest
from hugging_face_weights import small_config
from parity_families import FAMILIES, hugging_face_row
from parity_rows import COSINE, ROWS, TOLERANCE, VISIBLE, Drawn, Row, inputs
from weights import relative_error

from clipmill.encoders import load_encoder, unload_all
from clipmill.errors import DeviceError, SpecError
from clipmill.models.support_matrix import has_native_bfloat16

SMALL = [
    *(row for row in [*ROWS, *FAMILIES] if row.small),
    hugging_face_row("hf: CLIPModel", small_config()),
]
pytestmark = pytest.mark.usefixtures("small_architectures")


@pytest.fixture(scope="module", params=SMALL, ids=lambda row: row.name)
def drawn(request, tmp_path_factory) -> tuple[Row, Drawn]:
    folder = tmp_path_factory.mktemp("row")
    yield request.param, request.param.draw(folder)
    unload_all()


def _embed(drawn: Drawn, runtime: str, precision: str) -> dict[str, np.ndarray]:
    options = {"device": "cpu", "decode": "exact", **drawn.options}
    encoder = load_encoder(drawn.model, runtime=runtime, precision=precision, **options)
    embed = {"image": encoder.embed_images, "text": encoder.embed_texts, "audio": encoder.embed_audios}
    return {modality: embed[modality](inputs(modality)) for modality in drawn.vectors}


@pytest.mark.parametrize("runtime", ["torch", "onnx", "openvino"])
def test_float32_equals_the_reference(drawn: tuple[Row, Drawn], runtime: str) -> None:
    """Relative error at most 1e-4 in every modality, and every mistake differs by far more."""
    row, model = drawn
    if runtime not in row.runtimes:
        with pytest.raises(SpecError, match=runtime):
            _embed(model, runtime, "fp32")
        return
    ours = _embed(model, runtime, "fp32")
    assert {
        modality: error
        for modality in ours
        if (error := relative_error(ours[modality], model.vectors[modality])) > TOLERANCE
    } == {}
    for (modality, mistake), vectors in model.controls.items():
        assert relative_error(ours[modality], vectors) > VISIBLE, mistake


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_bfloat16_stays_near_float32(drawn: tuple[Row, Drawn], runtime: str) -> None:
    """Cosine of at least 0.999 to our float32."""
    _, model = drawn
    if not has_native_bfloat16():
        with pytest.raises(DeviceError, match="bfloat16"):
            _embed(model, runtime, "bf16")
    else:
        exact, reduced = _embed(model, "torch", "fp32"), _embed(model, runtime, "bf16")
        for modality, vectors in exact.items():
            lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reduced[modality], axis=1)
            assert (np.sum(vectors * reduced[modality], axis=1) / lengths).min() >= COSINE, modality
            assert relative_error(reduced[modality], vectors) > 1e-5, "this was float32"
