"""Exported models: `onnx:DIR`, a directory that `clipmill export` or clip-as-service wrote.

A directory of `clipmill export` has graphs, the tokenizer's tables and `clipmill.json`. That is all that is needed:
torch and open_clip are not imported and need not be installed.

A directory in the layout of clip-as-service has `visual.onnx` (`pixel_values`: normalised float (n, 3, S, S)) and
`textual.onnx` (`input_ids`, and for M-CLIP `attention_mask`), but no information about the model. The model's name is
taken from a `clipmill.json` next to them, `{"model": "ViT-B-32::openai"}`, or else from the name of the directory, with
`-` for `::` and `/`: `ViT-B-32-openai`, `M-CLIP-LABSE-Vit-L-14`. Preprocessing, tokenizer and dimension are those of
that model; graphs with other shapes are an error. CLIP's table of merges is read from the directory if it is there,
M-CLIP's `tokenizer.json` from the directory.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ...media.options import AudioFrontend
from ..catalog import facts_of, mclip
from ..catalog.exported import FOREIGN_GRAPHS, foreign_model, preprocessing_of
from ..catalog.manifest import FILE, read_manifest
from ..frontend import Frontend, TextFrontend, Tokenizer
from ..source import Graphs, ModelSource
from ..spec import EncoderSpec
from ..support_matrix import GRAPH_RUNTIMES
from ..tokenizers.fast import FastTokenizer
from ..tokenizers.saved import CLIP_FILE, FAST_FILE, clip_tokenizer, load_tokenizer
from ..weight_files import sha256_of
from .scales import biases_of_dict, scales_of_dict
from .token_limit import token_limit

_MEMORY = b"_MEM_ADDR_/*"
"""End of the names by which ONNX Runtime calls memory instead of a file with weights."""


def find_source(spec: EncoderSpec) -> ModelSource:
    """Read a directory and check that its files are unchanged.

    Args:
        spec: Of family `onnx`.

    Raises:
        WeightsError: If something is missing, damaged, of another version, or does not fit.
        SpecError: If the directory's model is unknown.
    """
    folder = Path(spec.ref.weights)
    manifest = read_manifest(folder)
    return _clip_as_service(folder, spec) if manifest is None else _exported(folder, manifest, spec)


def _exported(folder: Path, manifest: Mapping[str, Any], spec: EncoderSpec) -> ModelSource:
    _check_files(folder, manifest["files"])
    image, text, audio = (manifest.get(name) for name in ("image", "text", "audio"))
    frontend = Frontend(
        dim=manifest["dim"],
        image=preprocessing_of(image) if image else None,
        text=_text_frontend(folder, text, spec) if text else None,
        audio=AudioFrontend.of(audio) if audio else None,
    )
    kind = manifest["kind"]
    of_model = (manifest["modalities"], str(folder / FILE))
    graphs = Graphs(folder, manifest["graphs"], kind, manifest["runtime"], manifest["precision"])
    _check_graphs(graphs)
    known = ("weights_sha256", "checked_cosine", "calibration_sha256")
    return ModelSource(
        frontend,
        tuple(folder / name for name in sorted(manifest["files"])),
        _no_towers,
        resolved={"exported_from": manifest["model"], **{k: manifest[k] for k in known if manifest.get(k)}},
        runtimes=("openvino",) if kind == "int8-openvino" else GRAPH_RUNTIMES,
        graphs=graphs,
        scales=functools.partial(scales_of_dict, manifest.get("learnt_scales"), *of_model),
        biases=functools.partial(biases_of_dict, manifest.get("learnt_biases"), *of_model),
    )


def _text_frontend(folder: Path, text: Mapping[str, Any], spec: EncoderSpec) -> TextFrontend:
    settings = text["tokenizer"]
    limit = token_limit(spec, settings["max_tokens"], settings["context_length"])
    tokenizer = load_tokenizer(settings, folder, limit)
    return TextFrontend(tokenizer, fixed_length=text["fixed_length"], masked=text["masked"])


def _check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise WeightsError(f"{str(folder)!r} lacks {name!r}, which is in its {FILE}; export the model again")
        if (found := sha256_of(path)) != expected:
            raise WeightsError(
                f"{str(path)!r} differs from the exported file (sha256 {found[:12]}…, expected {expected[:12]}…);"
                " copy or export it again"
            )


def _check_graphs(graphs: Graphs) -> None:
    """Refuse graphs that read the memory of this process.

    ONNX Runtime names memory of its own process in this way, and OpenVINO follows such an address in any file.
    Files outside of the directory are refused by both runtimes themselves.
    """
    for model_input in graphs.files:
        path = graphs.path(model_input)
        if path.stat().st_size == 0:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(_MEMORY) >= 0:
                raise WeightsError(f"{str(path)!r} has weights at an address in memory, which no file can hold")


def _no_towers() -> Any:
    raise WeightsError("an exported directory has graphs instead of towers; use runtime 'onnx' or 'openvino'")


def _clip_as_service(folder: Path, spec: EncoderSpec) -> ModelSource:
    ref = foreign_model(folder)
    facts = facts_of(ref)
    default = facts.context_length or 77
    if ref.family == "m-clip":
        base = mclip.MODELS[ref.architecture].base
        pad_id, longest = int(mclip.BASES[base]["pad_token_id"]), mclip.longest_text(base)
        limit = token_limit(spec, default, longest)
        tokenizer: Tokenizer = FastTokenizer.of_file(folder / FAST_FILE, longest, pad_id, max_tokens=limit)
        text = TextFrontend(tokenizer, masked=True)
    else:
        # the graph was traced with full rows, and its positions may require them
        tokenizer = clip_tokenizer(folder / CLIP_FILE, default, token_limit(spec, default, default))
        text = TextFrontend(tokenizer, fixed_length=True)
    frontend = Frontend(facts.dim, image=facts.preprocessing, text=text)
    graphs = Graphs(folder, FOREIGN_GRAPHS)
    _check_graphs(graphs)
    return ModelSource(
        frontend,
        tuple(folder / name for name in sorted(FOREIGN_GRAPHS.values())),
        _no_towers,
        settings={"model": ref.name},
        resolved={"exported_from": ref.name},
        runtimes=GRAPH_RUNTIMES,
        graphs=graphs,
    )
