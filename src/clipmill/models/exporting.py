"""Export a model as graphs to a directory that `onnx:DIR` loads, without torch and open_clip."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DatasetError, SpecError, WeightsError
from ..files.file_systems import dataset_errors, local_directory
from ..messages import setting
from ..threads import allowed_cpus
from .calibration import Calibration, calibrated_graphs, check_is_calibrated
from .catalog.manifest import FILE, write_manifest
from .frontend import Frontend
from .installed import versions
from .runtimes import GRAPH_KINDS
from .runtimes.candidates import can_run
from .runtimes.choice import measure
from .runtimes.store import Store
from .source import Graphs
from .spec import EncoderSpec
from .support_matrix import Combination, has_native_bfloat16
from .tokenizers.saved import save_tokenizer
from .towers import check_runnable, find_source
from .towers.scales import scales_as_dict
from .weight_files import sha256_of

_log = logging.getLogger("clipmill")

_VERSIONS = ("clipmill", "torch", "open_clip_torch", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino")


def export_model(
    spec: EncoderSpec,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Write the graphs, the tokenizer and the manifest of a model.

    Args:
        spec: The model. `runtime` (`onnx` or `openvino`) and `precision` are what `auto` will mean when the directory
            is loaded; with `auto` here, that is decided when it is loaded. int8 and fp16 graphs run only in that
            precision; others run in float32 and, on OpenVINO, in bfloat16.
        folder: The directory; its parent must exist.
        overwrite: Whether to replace its content. It is replaced atomically once the new content is complete.
        calibration: Calibrates int8 graphs for OpenVINO on values of the user's own instead of generated probes.

    Returns:
        The manifest.

    Raises:
        SpecError: If the model cannot be exported for this runtime and precision, or graphs for them are not
            calibrated, or the spec cuts vectors.
        DatasetError: If the directory cannot be written, or is not empty and `overwrite` is off.
        WeightsError: If the weights are not available, or no graph can be made.
        MissingExtraError: If the packages that make graphs are not installed.
    """
    if spec.dimensions is not None:
        raise SpecError(
            setting("dimensions", spec.dimensions) + " has no effect on an export, whose graphs compute whole vectors",
            hint="give it when the directory is loaded",
        )
    combination = exported_combination(spec)
    if calibration is not None:
        check_is_calibrated(combination)
    target = local_directory(folder, "the output")
    _check_target(target, overwrite)
    store = _store(spec, combination)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    with dataset_errors("write", str(target)):
        draft.mkdir()  # not by `tempfile`: the directory has the permissions that the umask gives
    try:
        if calibration is None:
            graphs, figures = _stored_graphs(store, combination)
            with dataset_errors("write", str(target)):
                _copy_graphs(graphs, draft)
        else:
            graphs, figures = calibrated_graphs(store, calibration, draft)
        manifest = {
            **_description(spec, store, draft),
            "runtime": spec.runtime,
            "precision": spec.precision,
            "kind": graphs.kind,
            "graphs": dict(graphs.files),
            **figures,
        }
        written = sorted(path.name for path in draft.iterdir())
        manifest["files"] = {name: sha256_of(draft / name) for name in written}
        write_manifest(draft, manifest)
        _publish(draft, target)
    except BaseException as err:
        shutil.rmtree(draft, ignore_errors=True)
        with dataset_errors("write", str(target)) if isinstance(err, OSError) else contextlib.nullcontext():
            raise
    return manifest


def _store(spec: EncoderSpec, combination: Combination) -> Store:
    """Find the model; raise `SpecError` if it cannot be exported for a runtime and precision."""
    check_runnable(spec)
    source = dataclasses.replace(find_source(spec), float_graphs=None)  # they may share files with the weights
    store = Store(source, spec.cache_dir, spec.model)
    if store.source.graphs is not None:
        raise SpecError(f"{spec.model} is already an exported directory; copy it")
    if not can_run(store.source, combination):
        able = [str(one) for one in map(Combination._make, GRAPH_KINDS) if can_run(store.source, one)]
        raise SpecError(
            f"{spec.model} cannot be exported for {combination}; it runs in {', '.join(able) or 'no runtime of graphs'}"
        )
    return store


def _stored_graphs(store: Store, combination: Combination) -> tuple[Graphs, dict[str, Any]]:
    """Return the graphs of the cache for a runtime and precision, and what was measured of them here."""
    graphs = store.graphs(GRAPH_KINDS[combination])
    # the exporting machine may lack a GPU or bfloat16, which the directory is for
    is_measurable = combination.precision != "fp16" and (combination.precision != "bf16" or has_native_bfloat16())
    figures = measure(store, combination, "cpu", allowed_cpus()) if is_measurable else {}
    store.drop_towers()
    return graphs, figures


def _copy_graphs(graphs: Graphs, folder: Path) -> None:
    for path in graphs.folder.iterdir():
        if path.is_file() and path.suffix != ".json" and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)


def exported_combination(spec: EncoderSpec) -> Combination:
    """Return the runtime and precision to export for, which decide the kind of graphs.

    Raises:
        SpecError: If graphs do not run in them.
    """
    if spec.runtime == "torch":
        raise SpecError("an exported directory runs with runtime 'onnx' or 'openvino', not 'torch'")
    precision = "fp32" if spec.precision == "auto" else spec.precision
    runtime = spec.runtime
    if runtime == "auto":
        runtime = "openvino" if precision == "bf16" else "onnx"
    return Combination(runtime, precision)


def _description(spec: EncoderSpec, store: Store, folder: Path) -> dict[str, Any]:
    """Save the tokenizer, and return the entries of the manifest that describe the model."""
    frontend: Frontend = store.source.frontend
    text = frontend.text
    facts = spec.facts
    return {
        "model": spec.model,
        "dim": frontend.dim,
        "modalities": sorted(frontend.modalities),
        "image": frontend.image.as_dict() if frontend.image else None,
        "text": None
        if text is None
        else {
            "tokenizer": save_tokenizer(text.tokenizer, folder),
            "fixed_length": text.fixed_length,
            "masked": text.masked,
        },
        "audio": dataclasses.asdict(frontend.audio) if frontend.audio else None,
        "weights_sha256": store.source.weights_sha256,
        "settings": dict(store.source.settings),
        "learnt_scales": _learnt(store.source.scales, "scales"),
        "learnt_biases": _learnt(store.source.biases, "biases"),
        "parameters": facts.parameters,
        "licence": facts.licence,
        "least_dimensions": facts.least_dimensions,
        "versions": versions(*_VERSIONS),
    }


def _learnt(find: Callable[[], Mapping[frozenset[str], float]], what: str) -> dict[str, float]:
    """Return learnt scales or biases. An invalid one does not stop the export, since vectors do not depend on it."""
    try:
        return scales_as_dict(find())
    except WeightsError as err:
        _log.warning("exported without learnt %s: %s", what, err)
        return {}


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise DatasetError(f"{str(target.parent)!r}, where {target.name!r} was to be written, is not a directory")
    if target.exists() and not target.is_dir():
        raise DatasetError(f"{str(target)!r} is a file")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise DatasetError(f"{str(target)!r} is not empty", hint=setting("overwrite", True) + " replaces it")
    if overwrite and target.is_dir() and any(target.iterdir()) and not (target / FILE).is_file():
        raise DatasetError(f"{str(target)!r} has no {FILE}: it was not made by an export, so it is not replaced")


def _publish(draft: Path, target: Path) -> None:
    """Rename a complete directory to its target; remove the old one once the new one is in place."""
    if not target.exists():
        draft.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    target.rename(aside / "old")
    try:
        draft.rename(target)
    except OSError:
        (aside / "old").rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
