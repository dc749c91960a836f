"""Which model a directory of graphs holds: what its `clipmill.json` says, or, of one by clip-as-service, its name."""

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
"""The graphs of a directory in the layout of clip-as-service, by entrance."""
_CATALOG = ("open_clip", "m-clip", "demo")


def preprocessing_of(image: Mapping[str, Any]) -> Preprocessing:
    """Return how images are prepared, as a manifest says it."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in image.items()}
    return Preprocessing(**fields)


def foreign_model(folder: Path) -> ModelRef:
    """Return the model that a directory of clip-as-service holds.

    Raises:
        WeightsError: If it is not in that layout.
        SpecError: If nothing says which model it is.
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
        f"nothing says which model {str(folder)!r} holds: write its name into {FILE} there,"
        ' such as {"model": "ViT-B-32::openai"}'
        + (f"; {named!r} is not one" if named is not None else f"; {folder.name!r} names none")
    )


def _spellings(name: str) -> list[str]:
    """Return what a directory's name may mean: `-` stands for `::` and `/` too."""
    by_simple = {simplify(known): known for known in mclip.MODELS}
    if simplify(name) in by_simple:
        return [by_simple[simplify(name)]]
    cuts = [place for place, character in enumerate(name) if character in "-_"]
    return [name, *(f"{name[:cut]}::{name[cut + 1 :]}" for cut in cuts)]
