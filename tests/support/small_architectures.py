"""Architectures of open_clip under their own names, with few and narrow layers: every step of the real ones, quickly.

A spec names an architecture, so that tests of the loading code cannot draw one of their own. Names, sizes of images and
vectors, context and vocabulary stay; the real sizes are compared by `make parity`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import open_clip
import pytest

from clipmill.models.towers import open_clip_build

_TEXT = {"width": 128, "heads": 2, "layers": 2}
SMALL: dict[str, dict[str, dict[str, Any]]] = {
    "ViT-B-32": {"vision_cfg": {"width": 192, "layers": 2}, "text_cfg": _TEXT},
    "ViT-L-14": {"vision_cfg": {"width": 128, "layers": 2}, "text_cfg": _TEXT},
    "RN50": {"vision_cfg": {"width": 16, "layers": [1, 1, 1, 1]}, "text_cfg": {**_TEXT, "layers": 3}},
}


@contextlib.contextmanager
def made_small() -> Iterator[None]:
    """Make them small for this process, for open_clip and for clipmill, which asks open_clip."""
    published = open_clip.get_model_config

    def get_model_config(name: str) -> dict[str, Any] | None:
        config = copy.deepcopy(published(name))
        for part, fields in SMALL.get(name.removesuffix("-quickgelu"), {}).items():
            config[part] |= fields
        return config

    with pytest.MonkeyPatch.context() as patch:
        for module in (open_clip, open_clip_build):
            patch.setattr(module, "get_model_config", get_model_config)
        yield
