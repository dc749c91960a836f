"""`clipmill export`: writes a model as graphs to a directory; `onnx:DIR` runs it without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal
from rich.table import Table

from ..datasets.inputs.readers import ReaderOptions
from ..datasets.own_values import draw_values, plan_inputs
from ..errors import DatasetError
from ..indexes.neighbours import kept_neighbours_of_rows
from ..models.calibration import MAX_VALUES, MIN_FOR_RECALL, NEIGHBOURS, Calibration, check_is_calibrated
from ..models.exporting import export_model, exported_combination
from ..models.spec import EncoderSpec
from .cli_messages import Refused


def export(spec: EncoderSpec, folder: str, overwrite: bool, calibrate: Mapping[str, Any]) -> dict[str, Any]:
    """Write the directory; return its manifest. `calibrate` are the options of `calibration_of`, by name."""
    return export_model(spec, folder, overwrite=overwrite, calibration=calibration_of(spec, **calibrate))


def calibration_of(
    spec: EncoderSpec, calibrate: Sequence[str], text_column: str | None, image_column: str | None
) -> Calibration | None:
    """Return how int8 graphs are calibrated on the inputs `calibrate`; None without any.

    Raises:
        SpecError: If graphs for the runtime and precision are not calibrated.
        Refused: If an input cannot be used.
    """
    if not calibrate:
        for flag, column in (("--text-column", text_column), ("--image-column", image_column)):
            if column:
                raise click.UsageError(f"{flag} has no effect without --calibrate")
        return None
    check_is_calibrated(exported_combination(spec))
    reader = ReaderOptions(text=text_column, image=image_column)
    try:
        inputs = plan_inputs(calibrate)
    except DatasetError as err:
        raise Refused(err) from err
    return Calibration(
        lambda model: draw_values(inputs, model, spec, count=MAX_VALUES, reader=reader),
        lambda exact, other: kept_neighbours_of_rows(exact, other, NEIGHBOURS),
    )


def export_table(folder: Path, manifest: dict[str, Any]) -> Table:
    """Return the content of an exported directory as a table, from the manifest that `export_model` returned."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    nbytes = sum((folder / name).stat().st_size for name in manifest["files"])
    table.add_row("exported", f"{manifest['model']} ({', '.join(manifest['modalities'])}, {manifest['dim']} values)")
    table.add_row("graphs", f"{manifest['kind']}, for runtime {manifest['runtime']}, precision {manifest['precision']}")
    if "calibration" in manifest:
        for modality in manifest["modalities"]:
            table.add_row(modality, calibration_text(manifest["calibration"][modality]))
    elif "checked_cosine" in manifest:
        table.add_row("checked", f"smallest cosine against float32: {manifest['checked_cosine']}")
    table.add_row("directory", f"{folder} ({len(manifest['files'])} files, {decimal(nbytes)})")
    table.add_row("load it as", f"onnx:{folder}")
    return table


def calibration_text(found: Mapping[str, Any]) -> str:
    """Return what a modality was calibrated on, and what was measured of it; see `calibrated_graphs`."""
    calibrated, held_out, recall = found["calibrated"], found["held_out"], found[f"recall_at_{NEIGHBOURS}"]
    on = f"{calibrated} of the input's" if calibrated else "generated probes, since the input has none"
    measured = f"{held_out} others" if held_out else "generated probes"
    neighbours = f"not measured, since that takes {MIN_FOR_RECALL} others" if recall is None else f"{recall:.4f}"
    return (
        f"calibrated on {on}; on {measured}, cosine to float32 {found['cosine_mean']:.4f} in the mean,"
        f" {found['cosine_min']:.4f} at least; recall@{NEIGHBOURS} {neighbours}"
    )
