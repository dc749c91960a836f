"""What is used of open_clip stands in one place, and exists in the version that is installed."""

from __future__ import annotations

import ast
from pathlib import Path

import open_clip
import pytest

import clipmill.transforms
from clipmill.models.towers import open_clip_names
from clipmill.models.towers.open_clip_build import OpenClipTextTower, towers_of

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 1, "width": 64, "patch_size": 16, "image_size": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1},
}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module))
    return {name for name in found if name.partition(".")[0] == "open_clip"}


def test_no_other_module_imports_it() -> None:
    """So that a change of open_clip is met in one file."""
    files = [file for room in ("src", "transforms", "udfs", "pipelines") for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 300 and Path(str(clipmill.transforms.__file__)).is_file()
    users = {file.name: _imports(file) for file in files if _imports(file)}
    assert set(users) == {"open_clip_names.py"}
    modules = {"open_clip", "open_clip.convert", "open_clip.modified_resnet", "open_clip.transformer"}
    assert users["open_clip_names.py"] == modules


def test_every_name_exists() -> None:
    """And is what it is used as."""
    for name in open_clip_names.__all__:
        assert callable(getattr(open_clip_names, name))
    assert open_clip_names.get_model_config("ViT-B-32")["embed_dim"] == 512


@pytest.mark.parametrize("custom", [False, True])
def test_every_attribute_exists(custom: bool) -> None:
    """Of models with and without a separate text tower."""
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**SMALL)
    towers = towers_of(model)
    assert isinstance(towers["text"], OpenClipTextTower)
    text = model.text if custom else model
    for name in ("token_embedding", "positional_embedding", "attn_mask", "transformer", "ln_final", "text_projection"):
        assert hasattr(text, name)
    assert hasattr(text, "pool_type" if custom else "text_pool_type")
    assert hasattr(text, "eos_id" if custom else "text_eos_id")
    assert hasattr(model, "visual") and hasattr(model, "encode_image") and hasattr(model, "encode_text")
    assert not custom or hasattr(text, "cls_emb")
