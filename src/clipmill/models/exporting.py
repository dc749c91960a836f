"""Writing a model as graphs into a directory that runs without torch and open_clip: what `onnx:DIR` loads."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..errors import DatasetError, SpecError, WeightsError
from ..messages import setting
from ..threads import allowed_cpus
from .catalog.manifest import FILE, write_manifest
from .frontend import Frontend
from .runtimes import GRAPH_KINDS
from .runtimes.choice import can_run, measure
from .runtimes.store import Store, versions
from .spec import EncoderSpec
from .support_matrix import Combination, has_native_bfloat16
from .tokenizers.saved import save_tokenizer
from .towers import find_source
from .towers.scales import scales_as_dict
from .weight_files import sha256_of

_log = logging.getLogger("clipmill")

_VERSIONS = ("clipmill", "torch", "open_clip_torch", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino")


def export_model(spec: EncoderSpec, folder: str | os.PathLike[str], *, overwrite: bool = False) -> dict[str, Any]:
    """Write graphs, tokenizer and manifest of a model.

    Args:
        spec: The model. `runtime` (`onnx` or `openvino`) and `precision` say what the directory is for: what `auto`
            will mean for whoever loads it. With `auto` here it is left to them. int8 and fp16 graphs run in that
            precision alone; the others run in float32 and, on OpenVINO, in bfloat16.
        folder: The directory; its parent must exist.
        overwrite: Whether to replace what is in it. It is replaced at once, when the new one is whole.

    Returns:
        The manifest.

    Raises:
        SpecError: If the model cannot be exported so.
        DatasetError: If the directory cannot be written, or is not empty and `overwrite` is off.
        WeightsError: If weights cannot be had, or no graph can be made.
        MissingExtraError: Without the packages that make graphs.
    """
    target = Path(folder).expanduser().absolute()
    _check_target(target, overwrite)
    way = _way(spec)
    store = Store(find_source(spec), spec.cache_dir)
    if store.source.graphs is not None:
        raise SpecError(f"{spec.model} is an exported directory already: copy it")
    if not can_run(store.source, way):
        raise SpecError(f"{spec.model} cannot be exported: its towers run in {', '.join(store.source.runtimes)} only")
    graphs = store.graphs(GRAPH_KINDS[way])
    # the machine that exports need not have what it is exported for: a GPU, or bfloat16
    is_able = way.precision != "fp16" and (way.precision != "bf16" or has_native_bfloat16())
    figures = measure(store, way, "cpu", allowed_cpus()) if is_able else {}
    store.drop_towers()
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        os.chmod(draft, 0o755)
        names = [path.name for path in graphs.folder.iterdir() if path.is_file() and path.suffix != ".json"]
        names = [name for name in names if not name.startswith(".")]
        for name in names:
            shutil.copyfile(graphs.folder / name, draft / name)
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
        _put_in_place(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest


def _way(spec: EncoderSpec) -> Combination:
    """Return a way to run what is to be exported, which says which graphs are needed.

    Raises:
        SpecError: If a directory of graphs cannot be run so.
    """
    if spec.runtime == "torch":
        raise SpecError("a directory of graphs is run by runtime 'onnx' or 'openvino', not by 'torch'")
    precision = "fp32" if spec.precision == "auto" else spec.precision
    runtime = spec.runtime
    if runtime == "auto":
        runtime = "openvino" if precision == "bf16" else "onnx"
    return Combination(runtime, precision)


def _description(spec: EncoderSpec, store: Store, folder: Path) -> dict[str, Any]:
    """Return what the manifest says beside its files; write the tokenizer's."""
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
        "learnt_scales": _scales(store),
        "parameters": facts.parameters,
        "licence": facts.licence,
        "versions": versions(*_VERSIONS),
    }


def _scales(store: Store) -> dict[str, float]:
    """Return the learnt scales; vectors are right without, so that a parameter that is none stops no export."""
    try:
        return scales_as_dict(store.source.scales())
    except WeightsError as err:
        _log.warning("exported without a learnt scale: %s", err)
        return {}


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise DatasetError(f"no directory {str(target.parent)!r} to write {target.name!r} into")
    if target.exists() and not target.is_dir():
        raise DatasetError(f"{str(target)!r} is a file")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise DatasetError(f"{str(target)!r} is not empty", hint=setting("overwrite", True) + " replaces it")
    if overwrite and target.is_dir() and any(target.iterdir()) and not (target / FILE).is_file():
        raise DatasetError(f"{str(target)!r} holds no {FILE}: what is in it was not exported, and is not replaced")


def _put_in_place(draft: Path, target: Path) -> None:
    """Give a whole directory its name; what had the name goes when the new one is there."""
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
