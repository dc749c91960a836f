"""Identify the model in a directory of graphs: by its `clipmill.json` or, for clip-as-service, by its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import SpecError, UnknownModelError, WeightsError
from ...media.options import Preprocessing
from . import mclip
from .manifest import FILE, named_model
from .names import ModelRef, resolve_model
from .tables import simplify

FOREIGN_GRAPHS = {"normalised_image": "visual.onnx", "text": "textual.onnx"}
"""The graphs of a directory in the layout of clip-as-service, by model input."""
_CATALOG = ("open_clip", "m-clip", "demo")


def preprocessing_of(image: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing of images from a manifest's entry."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in image.items()}
    return Preprocessing(**fields)


def foreign_model(folder: Path) -> ModelRef:
    """Return the model in a directory of clip-as-service.

    Raises:
        WeightsError: If the directory is not in that layout.
        SpecError: If the model cannot be identified.
    """
    files = sorted(FOREIGN_GRAPHS.values())
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise WeightsError(
            f"{str(folder)!r} has neither a {FILE} of `clipmill export` nor {' and '.join(missing)} of clip-as-service"
        )
    named = named_model(folder)
    names = [named] if named is not None else list(_spellings(folder.name))
    refs = set()
    for name in names:
        try:
            ref = resolve_model(name)
        except UnknownModelError:
            continue
        if ref.family in _CATALOG and not ref.is_file:
            refs.add(ref)
    if len(refs) == 1:
        return refs.pop()
    raise SpecError(
        f"the model in {str(folder)!r} is unknown: write its name into {FILE} there,"
        ' such as {"model": "ViT-B-32::openai"}'
        + (f"; {named!r} is not a model" if named is not None else f"; {folder.name!r} is not the name of a model")
    )


def _spellings(name: str) -> list[str]:
    """Return the model names that a directory's name may mean: `-` may stand for `::` or `/`."""
    by_simple = {simplify(known): known for known in mclip.MODELS}
    if simplify(name) in by_simple:
        return [by_simple[simplify(name)]]
    cuts = [place for place, character in enumerate(name) if character in "-_"]
    return [name, *(f"{name[:cut]}::{name[cut + 1 :]}" for cut in cuts)]
