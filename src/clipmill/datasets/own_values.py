"""Draws values from an input and prepares them for a model, to calibrate the model on."""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..encoders.document import Document
from ..encoders.item import Item, Uri
from ..encoders.loaded import Loaded
from ..encoders.preparation import fetch_and_prepare, fetch_policy, prepare_item
from ..errors import DatasetError
from ..failures import Code, Failure, Stage
from ..files.json_text import some_of
from ..models.calibration import OwnValues
from ..models.model import Model, Prepared
from ..models.spec import EncoderSpec
from ..threads import allowed_cpus
from .inputs.planning import plan_shards
from .inputs.readers import DEFAULT_READER, ReaderOptions, read_documents
from .inputs.shards import Shard

_log = logging.getLogger("clipmill")

_ROWS = 16
"""Rows of a shard. Shards are drawn, and read from their beginning, so small ones mix an input well."""
_TRIED = 4
"""Rows of an input that are read at most, in multiples of the values that are wanted: the others may be damaged."""
_SEED = 20
_MODALITIES = ("image", "text")


def plan_inputs(inputs: Sequence[str]) -> dict[str, Sequence[Shard]]:
    """Return the pieces of inputs, from which `draw_values` draws.

    Raises:
        DatasetError: If an input has no files or cannot be listed.
    """
    return {one: plan_shards([one], rows_per_shard=_ROWS) for one in inputs}


def draw_values(
    inputs: Mapping[str, Sequence[Shard]],
    model: Model,
    spec: EncoderSpec,
    *,
    count: int,
    reader: ReaderOptions = DEFAULT_READER,
) -> OwnValues:
    """Draw different images and texts from inputs, and prepare them as a job that embeds them does.

    Of each input, pieces of 16 rows are drawn at random, but the same each time, until there are enough images or
    texts; files that cannot be cut (compressed ones, tars in object stores) are read from their beginning. A document
    may be both, an image and its caption. What cannot be read is left out, with a warning that counts and names it.

    Memory holds the prepared values: of an image the crop that the model sees.

    Args:
        inputs: As `plan_inputs` returns them.
        model: Prepares the values. Those that it has no tower for are not drawn.
        spec: Limits and decoding.
        count: How many of each modality, at most. Of one input, four times as many rows are read at most.
        reader: The columns of tables.

    Raises:
        DatasetError: If there is no value that can be used.
    """
    wanted = [name for name in _MODALITIES if name in model.modalities]
    drawn = _Drawn(wanted, count)
    for shards in inputs.values():
        drawn.start_input()
        order = np.random.default_rng(_SEED).permutation(len(shards))
        documents = (
            document
            for number in order
            for document in read_documents(shards[number], reader, max_file_bytes=spec.max_fetch_bytes)
        )
        named = ((document.key(), item) for document in documents for item in _items_of(document, wanted))
        for name, modality, result in _prepared(itertools.islice(named, _TRIED * count), model, spec):
            drawn.add(name, modality, result)
            if drawn.is_enough:
                break
    return drawn.values(list(inputs), spec)


def _items_of(document: Document, wanted: Sequence[str]) -> Iterator[Item]:
    """Yield the content of a document and, if it is not the content itself, its text or caption."""
    text = document.tags.get("caption") if document.text is None else document.text
    other = copy.copy(document)
    other.text = None
    has_other = other.blob is not None or other.tensor is not None or bool(other.uri)
    if document.failures or has_other or text is None:
        yield other.item() if has_other else document.item()
    if not document.failures and isinstance(text, str) and text.strip() and "text" in wanted:
        yield Item("text", text)


def _prepared(
    named: Iterator[tuple[str, Item]], model: Model, spec: EncoderSpec
) -> Iterator[tuple[str, str, Prepared | Failure]]:
    """Yield the name, the modality and the prepared value of each item, in order; threads decode a few ahead."""
    threads, policy, loaded = spec.preprocess_threads or allowed_cpus(), fetch_policy(spec), Loaded(model, 1)
    with ThreadPoolExecutor(threads) as decoders, ThreadPoolExecutor(threads) as fetchers:

        def prepare(item: Item) -> tuple[str, Prepared | Failure]:
            if item.failure is not None:
                return str(item.modality), item.failure.failure
            if isinstance(item.content, Uri):
                found = fetch_and_prepare(item, loaded, spec, policy, decoders)
            else:
                found = prepare_item(item, loaded, spec)
            return found.modality, found.result

        while some := list(itertools.islice(named, 4 * threads)):
            for (name, _), (modality, result) in zip(
                some, fetchers.map(prepare, [item for _, item in some]), strict=True
            ):
                yield name, modality, result


class _Drawn:
    """Collects different values, until there are enough of one input."""

    def __init__(self, wanted: Sequence[str], count: int) -> None:
        self._count = count
        self._kept: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
        self._of_input = dict.fromkeys(wanted, 0)
        self._known: set[bytes] = set()
        self._failures: list[Failure] = []
        self._repeated = 0

    def start_input(self) -> None:
        self._of_input = dict.fromkeys(self._of_input, 0)

    @property
    def is_enough(self) -> bool:
        return any(number >= self._count for number in self._of_input.values())

    def add(self, name: str, modality: str, result: Prepared | Failure) -> None:
        if isinstance(result, Prepared) and modality not in self._kept:
            message = f"{modality} is not calibrated on; only {' and '.join(self._kept)} of this model are"
            result = Failure(Stage.PREPROCESS, Code.UNSUPPORTED, message)
        if isinstance(result, Failure):
            self._failures.append(result.at(row=name))
            return
        value = np.asarray(result.payload)
        digest = hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=16, person=modality.encode()).digest()
        if digest in self._known:
            self._repeated += 1
            return
        self._known.add(digest)
        self._of_input[modality] += 1
        if len(self._kept[modality]) < self._count:
            self._kept[modality].append(value)

    def values(self, inputs: Sequence[str], spec: EncoderSpec) -> OwnValues:
        """Return the values, and log which failed.

        Raises:
            DatasetError: If there are none.
        """
        reasons = [f"{one.row} ({one.code}: {one.message})" for one in self._failures]
        if not any(self._kept.values()):
            raise DatasetError(
                f"nothing in {', '.join(map(repr, inputs))} is of use to calibrate {spec.model}"
                + (f": {some_of(reasons)}" if reasons else ""),
                hint=f"give a folder, a pattern, a tar or a table with {' or '.join(self._kept)} content",
            )
        if reasons:
            _log.warning("%d values cannot be read, and are left out: %s", len(reasons), some_of(reasons))
        return OwnValues(self._kept, failed=len(reasons), repeated=self._repeated)
