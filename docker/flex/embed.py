"""The pipeline of the Dataflow flex template: it embeds all files, or rows of tables, that patterns match.

`metadata.json` describes the parameters. Anywhere else it runs as a program:

    python docker/flex/embed.py --runner=FnApiRunner --input='photos/**.jpg' --output=vectors --model=demo
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from clipmill.transforms import Embed, ReadDocuments, WriteEmbeddings


def parser() -> argparse.ArgumentParser:
    """Return the parser of the template's own parameters; all others are Beam's."""
    own = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    own.add_argument("--input", required=True, help="patterns of files, with commas between them")
    own.add_argument("--output", required=True, help="directory of the dataset")
    own.add_argument("--model", required=True, help="name of a model")
    own.add_argument("--if_exists", default="fail", help="fail, replace or replace_unfinished")
    own.add_argument("--allow_buckets", default="", help="places, with commas, that URIs in tables may name")
    own.add_argument("--max_batch_rows", type=int, help="rows of a call of the model")
    own.add_argument("--dtype", default="float32", help="float32 or float16")
    return own


def build(arguments: Sequence[str] | None = None) -> beam.Pipeline:
    """Return the pipeline for the program's arguments, or for these."""
    given, options = parser().parse_known_args(arguments)
    spec: dict[str, object] = {"max_batch_rows": given.max_batch_rows} if given.max_batch_rows else {}
    if given.allow_buckets:
        spec["allow_buckets"] = given.allow_buckets.split(",")
    p = beam.Pipeline(options=PipelineOptions(options))
    documents = p | ReadDocuments(given.input.split(","))
    embedded = documents | Embed(given.model, **spec)
    _ = embedded | WriteEmbeddings(given.output, if_exists=given.if_exists, dtype=given.dtype)
    return p


if __name__ == "__main__":
    build().run().wait_until_finish()
