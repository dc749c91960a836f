"""The provenance of vectors: written to the metadata of their column, and read from files, schemas and DataFrames."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ... import __version__
from ...errors import DatasetError, SpecError
from ...files.file_systems import dataset_errors, is_local
from ...files.folder import Folder
from ...files.json_shape import fits
from ...files.json_text import parse_json
from ...models.catalog.mclip import image_model
from ...models.installed import versions
from ...models.spec import EncoderSpec
from .spark_schema import SPARK_SCHEMA_KEY, spark_schema

KEY = "clipmill"
"""Name of the metadata, in Arrow fields and in Spark columns."""

WHOLE_DIM = "whole_dim"
"""Number of values of a whole vector, in the provenance of vectors that were cut to `dim` values."""
FUSED = "fused"
"""Weights by column, in the provenance of vectors that are made of those of several columns."""

_AUDIO_LIBRARIES = ("soundfile", "soxr")
_LIBRARIES = ("open_clip_torch", "torch", "pillow")
_COMPARED = ("model", "weights", "normalize", "dim", WHOLE_DIM, FUSED, "head")
_DEFAULT_MODE = "reference"
_MAY_DIFFER = frozenset({"decode"})


_SHAPE = {
    **dict.fromkeys(("model?", "modality?", "mode?"), str),
    "weights?": (str, None),
    **dict.fromkeys(("dim?", f"{WHOLE_DIM}?"), (int, None)),
    "normalize?": bool,
    "image?": {},
    "text?": {},
}
"""What is read of a provenance; everything else in it is only compared."""
_FOOTER = {"fields": [{"name": str, "metadata?": ({}, None)}]}
"""What is read of a schema of Spark."""


def provenance_of(spec: EncoderSpec, modality: str) -> dict[str, Any]:
    """Return what is known about a column of vectors before any worker has loaded the model.

    The manifests of the shards hold what workers resolve later: the runtime behind `auto`, the weights' sha256.

    Args:
        spec: Encoder of the vectors.
        modality: `text`, `image`, `audio`; `auto` for documents, whose content decides.

    Returns:
        JSON values: `clipmill` (version), `model`, `weights` (tag, path or repository), `modality`, `dim`, `normalize`,
        `whole_dim` (if vectors were cut to `dim` values), the requested `runtime` and `precision`, `image` and `text`
        (their preprocessing, if the column may hold them, including M-CLIP's image `tower` and what the spec borrows
        from a base model), `mode` (of AudioCLIP) and
        `versions` of libraries.
    """
    provenance: dict[str, Any] = {
        "clipmill": __version__,
        "model": spec.model,
        "weights": spec.ref.weights or None,
        "modality": modality,
        "dim": spec.dim,
        "normalize": spec.normalize,
        "runtime": spec.runtime,
        "precision": spec.precision,
    }
    if spec.dim < spec.facts.dim:
        provenance[WHOLE_DIM] = spec.facts.dim
    family = spec.ref.family
    if family == "audioclip":
        provenance["mode"] = spec.mode
    preprocessing = spec.facts.preprocessing
    if modality in ("image", "auto") and "image" in spec.modalities:
        provenance["image"] = {
            "preprocess": spec.preprocess,
            "apply_exif": spec.apply_exif,
            "decode": spec.decode,
            **(preprocessing.as_dict() if spec.preprocess and preprocessing else {}),
            **({"tower": image_model(spec.ref.architecture, spec.image_weights)} if family == "m-clip" else {}),
            **_optional(spec, "base_image_processor"),
        }
    if modality in ("text", "auto") and "text" in spec.modalities:
        provenance["text"] = {
            "context_length": spec.max_text_tokens or spec.facts.context_length,
            "on_long_text": spec.on_long_text,
            **_optional(spec, "base_tokenizer"),
        }
    libraries = (*_LIBRARIES, *(_AUDIO_LIBRARIES if "audio" in spec.modalities else ()))
    return {**provenance, "versions": versions(*libraries)}


def _optional(spec: EncoderSpec, name: str) -> dict[str, Any]:
    """Return an option that few models have, if it is set."""
    return {} if getattr(spec, name) is None else {name: getattr(spec, name)}


def with_provenance(schema: pa.Schema, provenances: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    """Return the schema with the provenance of its columns of vectors, for pyarrow and for Spark.

    pyarrow reads the metadata of a field. Spark ignores that, and reads its own schema from the footer of a Parquet
    file. This function writes both. If a column has a type that Spark does not have (float16, unsigned integers,
    nanoseconds), the footer is omitted, and Spark reads the file without provenance.

    Args:
        schema: Columns of a file; their existing metadata is kept.
        provenances: Provenance by column, from `provenance_of`.

    Raises:
        DatasetError: If the schema lacks one of the columns.
    """
    if missing := sorted(set(provenances) - set(schema.names)):
        raise DatasetError(
            f"cannot add provenance: there is no column {missing[0]!r}; the columns are {', '.join(schema.names)}"
        )
    fields = []
    for field in schema:
        if field.name in provenances:
            metadata = {**(field.metadata or {}), KEY.encode(): _as_json(provenances[field.name])}
            field = field.with_metadata(metadata)
        fields.append(field)
    earlier = dict(schema.metadata or {})
    old_footer = earlier.pop(SPARK_SCHEMA_KEY.encode(), None)
    columns = {name: spark_metadata(provenance) for name, provenance in provenances.items()}
    footer = spark_schema(schema, _metadata_by_column(old_footer) | columns)
    if footer is not None:
        earlier[SPARK_SCHEMA_KEY.encode()] = json.dumps(footer).encode()
    return pa.schema(fields, metadata=earlier or None)


def spark_metadata(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of a Spark column that holds the provenance of its vectors."""
    return {KEY: _as_json(provenance)}


def _as_json(provenance: Mapping[str, Any]) -> str:
    return json.dumps(provenance, sort_keys=True)


def _metadata_by_column(footer: bytes | None) -> dict[str, dict[str, Any]]:
    """Return the metadata of the columns in a Spark schema, by name; columns without metadata are omitted."""
    if footer is None:
        return {}
    try:
        found = parse_json(footer)
    except ValueError as err:
        raise DatasetError(f"the metadata {SPARK_SCHEMA_KEY!r} is not JSON: {err}") from err
    if not fits(found, _FOOTER):
        raise DatasetError(f"the metadata {SPARK_SCHEMA_KEY!r} is not a schema of Spark: {footer!r:.80}")
    return {field["name"]: field["metadata"] for field in found["fields"] if field.get("metadata")}


def read_provenance(source: Any) -> dict[str, dict[str, Any]]:
    """Return the provenance of the vectors in a dataset, file, schema or DataFrame.

    Args:
        source: Path or URL of a Parquet file or of a directory of them (the first file by name is read), a
            `pyarrow.Schema` or an object with one, a Spark DataFrame (classic or Connect) or its schema.

    Returns:
        Provenance by column; columns without provenance are omitted.

    Raises:
        DatasetError: If the path does not exist or holds no Parquet file.
    """
    if isinstance(source, str | os.PathLike):
        return _from_arrow(_schema_at(os.fspath(source)))
    schema = source if isinstance(source, pa.Schema) else getattr(source, "schema", source)
    if isinstance(schema, pa.Schema):
        return _from_arrow(schema)
    if hasattr(schema, "jsonValue") and hasattr(schema, "fields"):
        return _parsed({field.name: field.metadata for field in schema.fields if field.metadata})
    raise DatasetError(
        f"a {type(source).__name__} has no provenance; give a path, a pyarrow schema or a Spark DataFrame"
    )


def _from_arrow(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    by_column = _metadata_by_column((schema.metadata or {}).get(SPARK_SCHEMA_KEY.encode()))
    for field in schema:
        if KEY.encode() in (field.metadata or {}):
            by_column[field.name] = {KEY: field.metadata[KEY.encode()]}
    return _parsed({name: by_column[name] for name in schema.names if name in by_column})


def _parsed(metadata: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    try:
        found = {name: parse_json(values[KEY]) for name, values in metadata.items() if KEY in values}
    except (ValueError, TypeError) as err:
        raise DatasetError(f"the metadata {KEY!r} of a column is not the JSON that clipmill writes: {err}") from err
    for name, provenance in found.items():
        if not fits(provenance, _SHAPE):
            raise DatasetError(f"the metadata {KEY!r} of column {name!r} is no provenance: {provenance!r:.80}")
    return found


def _schema_at(location: str) -> pa.Schema:
    folder = Folder.of(location)
    with dataset_errors("read", location):
        if (kind := folder.kind()) is None:
            raise DatasetError(f"{location}: no such file or directory")
        if kind == "file":
            return _schema_of_file(folder.fs, folder.path)
        for name in folder.list():
            if name.endswith(".parquet") and not any(part.startswith((".", "_")) for part in name.split("/")):
                return _schema_of_file(folder.fs, folder.at(name))
    raise DatasetError(f"{location} holds no Parquet file")


def _schema_of_file(file_system: Any, path: str) -> pa.Schema:
    import pyarrow.parquet as pq  # late: it loads all of pyarrow's file systems, and ssl

    if is_local(file_system):
        return pq.read_schema(path)
    with file_system.open(path, "rb") as file:
        return pq.read_schema(file)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the fields in which two provenances are incompatible; none if their vectors may share an index.

    Model, weights, mode, normalisation, dimension and preprocessing must agree; runtime, precision, decode mode and
    versions may differ. Preprocessing that only one of them has is not compared, so a column of texts may share an
    index with a column of images.

    Returns:
        Names such as `normalize` or `image.mean`, sorted.
    """
    found = [name for name in _COMPARED if a.get(name) != b.get(name)]
    found += ["mode"] if a.get("mode", _DEFAULT_MODE) != b.get("mode", _DEFAULT_MODE) else []
    for part in ("image", "text"):
        if part in a and part in b:
            ours, theirs = a[part], b[part]
            names = (ours.keys() | theirs.keys()) - _MAY_DIFFER
            found += [f"{part}.{name}" for name in names if ours.get(name) != theirs.get(name)]
    return sorted(found)


TAKEN_OVER = (
    *("model", "normalize", "mode", "preprocess", "apply_exif", "on_long_text", "max_text_tokens", "image_weights"),
    *("base_tokenizer", "base_image_processor", "dimensions", "force_dimensions"),
)
"""Fields of a spec that `spec_of_provenance` takes from the provenance instead of using their defaults."""


def spec_of_provenance(provenance: Mapping[str, Any], **options: Any) -> EncoderSpec:
    """Return a spec whose vectors are comparable with those of a column.

    Runtime, precision and decoding are not taken from the provenance: they may differ, and the machine that searches
    need not be like the one that embedded.

    Args:
        provenance: Provenance of the column, from `provenance_of`.
        **options: Fields of `EncoderSpec`, which take precedence. Those of the model and of its preprocessing must
            agree with the provenance.

    Raises:
        SpecError: If the provenance names no model, an option is invalid, or the vectors would not be comparable; the
            message says what differs.
        TypeError: If an option is unknown.
    """
    if not provenance.get("model"):
        raise SpecError("the provenance of these vectors names no model, so nothing can be embedded like them")
    fields: dict[str, Any] = {"model": provenance["model"], "normalize": bool(provenance.get("normalize"))}
    same_model = EncoderSpec(options.get("model") or provenance["model"]).model == provenance["model"]
    if same_model:  # another model, which is refused below, might not have these options
        fields |= _preprocessing_options(provenance)
        if provenance.get(WHOLE_DIM) and "dimensions" not in options:
            fields |= {"dimensions": provenance["dim"], "force_dimensions": True}  # whoever cut the vectors decided it
    spec = EncoderSpec(**{**fields, **options})
    check_comparable(spec, provenance)
    return spec


def check_comparable(spec: EncoderSpec, provenance: Mapping[str, Any]) -> None:
    """Raise `SpecError` if a spec's vectors are not comparable with a column's, saying why.

    `normalize` may differ, and the column may hold fused vectors, which are in the space of the others.
    """
    ours = provenance_of(spec, str(provenance.get("modality", "auto")))
    if found := [name for name in differences(ours, provenance) if name not in ("normalize", FUSED)]:
        details = "; ".join(
            f"{name} is {value_at(ours, name)!r} and was {value_at(provenance, name)!r}" for name in found
        )
        raise SpecError(f"the searched vectors were made with different options than those of {spec.model}: {details}")


def _preprocessing_options(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a spec that decide how the model's input is preprocessed."""
    image, text = provenance.get("image") or {}, provenance.get("text") or {}
    fields = {name: image[name] for name in ("preprocess", "apply_exif", "base_image_processor") if name in image}
    fields |= {name: text[name] for name in ("on_long_text", "base_tokenizer") if name in text}
    if "mode" in provenance:
        fields["mode"] = provenance["mode"]
    bare = EncoderSpec(provenance["model"])
    if text.get("context_length") not in (None, bare.facts.context_length):
        fields["max_text_tokens"] = text["context_length"]
    if "tower" in image and image["tower"] != image_model(bare.ref.architecture, None):
        fields["image_weights"] = image["tower"].partition("::")[2]
    return fields


def value_at(provenance: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path such as `image.mean`; None if there is none."""
    head, dot, rest = path.partition(".")
    return value_at(provenance.get(head) or {}, rest) if dot else provenance.get(head)
