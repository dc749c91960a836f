"""`clipmill export`: writes a model as graphs to a directory; `onnx:DIR` runs it without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from ..models.exporting import export_model
from ..models.spec import EncoderSpec


def export(spec: EncoderSpec, folder: str, overwrite: bool) -> Table:
    """Write the directory; return its content as a table for the terminal."""
    return export_table(Path(folder), export_model(spec, folder, overwrite=overwrite))


def export_table(folder: Path, manifest: dict[str, Any]) -> Table:
    """Return the content of an exported directory as a table, from the manifest that `export_model` returned."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    nbytes = sum((folder / name).stat().st_size for name in manifest["files"])
    table.add_row("exported", f"{manifest['model']} ({', '.join(manifest['modalities'])}, {manifest['dim']} values)")
    table.add_row("graphs", f"{manifest['kind']}, for runtime {manifest['runtime']}, precision {manifest['precision']}")
    if "checked_cosine" in manifest:
        table.add_row("checked", f"smallest cosine against float32: {manifest['checked_cosine']}")
    table.add_row("directory", f"{folder} ({len(manifest['files'])} files, {decimal(nbytes)})")
    table.add_row("load it as", f"onnx:{folder}")
    return table
