"""Scores of flat rows: each row is one candidate of a query, and the rows of a query are a group of any size.

A clip_score needs the sum over its group, a rank needs the best of the group. There are three steps:

    rows ──► cosine and logit of each row
               ├─► logits are combined to a few numbers per group (`ranking.GroupTotals`), before the shuffle
               └─► rows look up the numbers of their group in a side input

Rows are never grouped. The side input is `AsMultiMap`, which a row fetches by key; `AsDict` would send the numbers of
all groups to every worker before the first row.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import hashlib
import numbers
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.coders import Coder
from apache_beam.pvalue import AsMultiMap, PCollection
from apache_beam.transforms.window import BoundedWindow, GlobalWindows
from apache_beam.typehints import typehints
from apache_beam.utils.timestamp import Timestamp

from ..encoders.plans.pair_plan import LOGIT, PairPlan
from ..encoders.plans.rank_plan import CLIP_SCORE, COSINE, RANK
from ..encoders.plans.ranking import GroupTotals
from ..encoders.plans.row_values import MissingColumn, row_name
from ..encoders.plans.runner import Done
from ..encoders.plans.scores import Score
from ..failures import Code, RowError, Stage
from .elements import read_row
from .failed_row import FailedRow
from .rows import RowFields, fields_of, make_row

_EXACT = decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
"""Keeps all digits: normalises `1.50` and `15E-1` to `1.5`, and does not write out the digits of `1E+900000000`."""
_KEY_BYTES = 64
"""Maximum bytes of a key; a longer one is replaced by a digest, because every row of the group carries it."""
_PENDING = 1024
"""Logits that a combiner collects before it sums them up."""
_HELD_NUMBERS = 1_000_000
"""Numbers of groups that a worker caches for the next rows; at most 50 MB."""


def scored_type(element_type: Any) -> Any:
    """Return the type of the output of `PairElements`: key of the group, cosine, logit, and the row as it came."""
    number = typehints.Optional[float]
    return typehints.Tuple[bytes, number, number, element_type]


@dataclasses.dataclass(frozen=True, slots=True)
class PairElements:
    """Elements that are flat rows. The output for each is a tuple: see `scored_type`."""

    plan: PairPlan

    def read(self, element: Any) -> RowFields | FailedRow:
        """See `elements.Elements`; a row whose group has no key fails."""
        row = read_row(element, self.plan)
        if isinstance(row, FailedRow):
            return row
        try:
            self._key(row)
        except RowError as err:
            failed = make_row(element, row.fields, dict.fromkeys(self.plan.new_names))
            return FailedRow(failed, (err.failure.at(row=row_name(row, self.plan.key)),))
        return row

    def output(self, done: Done) -> Any:
        """See `elements.Elements`; of a row that failed the row itself, its scores None."""
        element, fields, values = done.token[0], done.source.fields, done.result.value
        if done.result.failures:
            return make_row(element, fields, dict.fromkeys(self.plan.new_names))
        return self._key(done.source), values[COSINE], values[LOGIT], element

    def _key(self, row: RowFields) -> bytes:
        """Return the key of a row's group; b"" if a column is missing, which the plan turns into a failure."""
        try:
            return group_key(self.plan.by, [row(path) for path in self.plan.by])
        except MissingColumn:
            return b""


class GroupScores(beam.PTransform):
    """Turns the output of `PairElements` into rows with `cosine`, `clip_score` and, with `top_k`, `rank`.

    Groups belong to a window, which is part of their keys. The side input is in the global window, so that it does not
    depend on the windows and triggers of the rows.
    """

    def __init__(self, top_k: int | None, rows_type: Any, score: Score) -> None:
        """Set what is reported: no `rank` if `top_k` is None."""
        super().__init__()
        self._score: Score = score
        self._top_k = top_k
        self._rows_type = rows_type

    def expand(self, scored: PCollection) -> PCollection:
        """Combine the logits, and look the totals up for each row; a sigmoid without a rank needs none."""
        windows = scored.windowing.windowfn.get_window_coder()
        scores_fn = _ScoresFn(windows, self._top_k, self._score)
        if self._score == "sigmoid" and not self._top_k:
            return scored | "Scores" >> beam.ParDo(scores_fn, None).with_output_types(self._rows_type)
        totals = (
            scored
            | "Logits" >> beam.ParDo(_LogitsFn(windows)).with_output_types(typehints.Tuple[bytes, float])
            | "AllWindows" >> beam.WindowInto(GlobalWindows())
            | "Totals"
            >> beam.CombinePerKey(TotalsFn(self._top_k)).with_output_types(typehints.Tuple[bytes, typehints.Any])
        )
        scores = beam.ParDo(scores_fn, AsMultiMap(totals))
        return scored | "Scores" >> scores.with_output_types(self._rows_type)


class TotalsFn(beam.CombineFn):
    """Combines the logits of a group to its `GroupTotals`, in any order and in any parts."""

    def __init__(self, top_k: int | None) -> None:
        """Set how many of the best are kept; None for none."""
        self._top_k = top_k

    def create_accumulator(self) -> tuple[tuple[Any, ...], list[float]]:
        """Return empty totals and no pending logits."""
        return tuple(GroupTotals()), []

    def add_input(self, accumulator: Any, logit: float) -> Any:
        """Take one logit."""
        accumulator[1].append(logit)
        return self.compact(accumulator) if len(accumulator[1]) >= _PENDING else accumulator

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        """Merge parts of a group."""
        whole = GroupTotals()
        for accumulator in accumulators:
            whole = GroupTotals.merge([whole, self._summed(accumulator)], self._top_k)
        return tuple(whole), []

    def compact(self, accumulator: Any) -> Any:
        """Sum up the pending logits before the accumulator is sent."""
        return tuple(self._summed(accumulator)), []

    def extract_output(self, accumulator: Any) -> tuple[Any, ...]:
        """Return the fields of the `GroupTotals`."""
        return tuple(self._summed(accumulator))

    def _summed(self, accumulator: Any) -> GroupTotals:
        totals, pending = accumulator
        parts = [GroupTotals(*totals), GroupTotals.of(pending, self._top_k)]
        return GroupTotals.merge(parts, self._top_k) if pending else parts[0]


class _LogitsFn(beam.DoFn):
    """Outputs the logits of the rows that have one, without the rows."""

    def __init__(self, windows: Coder) -> None:
        self._windows = windows

    def process(
        self,
        scored: Any,
        window: BoundedWindow = beam.DoFn.WindowParam,  # type: ignore[assignment]
    ) -> Iterable[tuple[bytes, float]]:
        key, _, logit, _ = scored
        if logit is not None:
            yield _in_window(self._windows, window, key), logit


class _ScoresFn(beam.DoFn):
    """Adds scores to rows, from the totals of their groups if there are any."""

    def __init__(self, windows: Coder, top_k: int | None, score: Score) -> None:
        self._windows = windows
        self._top_k = top_k
        self._score: Score = score
        self._most = max(1, _HELD_NUMBERS // (20 + (top_k or 0)))

    def start_bundle(self) -> None:
        self._held: collections.OrderedDict[bytes, GroupTotals] = collections.OrderedDict()

    def process(
        self,
        scored: Any,
        totals: Any,
        window: BoundedWindow = beam.DoFn.WindowParam,  # type: ignore[assignment]
    ) -> Iterable[Any]:
        key, cosine, logit, element = scored
        values = {COSINE: cosine, CLIP_SCORE: None} | ({RANK: None} if self._top_k else {})
        if logit is not None:
            alone = totals is None
            group = GroupTotals() if alone else self._group(_in_window(self._windows, window, key), totals)
            values[CLIP_SCORE] = group.clip_score(logit, self._score)
            if self._top_k:
                values[RANK] = group.rank(logit)
        yield make_row(element, fields_of(element) or {}, values)

    def _group(self, key: bytes, totals: Any) -> GroupTotals:
        group = self._held.get(key)
        if group is None:
            (fields,) = totals[key]
            group = self._held[key] = GroupTotals(*fields)
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        return group


def _in_window(windows: Coder, window: BoundedWindow, key: bytes) -> bytes:
    encoded = windows.encode(window)
    return len(encoded).to_bytes(4) + encoded + key


def group_key(names: Sequence[str], values: Sequence[Any]) -> bytes:
    """Return bytes that are equal for equal values, in every process, and differ for other values.

    Nulls are equal, NaNs too, and numbers by their value whatever their type, as in SQL.

    Args:
        names: The columns of the values.
        values: Texts, bytes, numbers, truth values, dates, times, UUIDs, nulls.

    Raises:
        RowError: For anything else.
    """
    parts = [_key_part(name, value) for name, value in zip(names, values, strict=True)]
    whole = b"".join(len(part).to_bytes(8) + part for part in parts)
    return b"w" + whole if len(whole) < _KEY_BYTES else b"d" + hashlib.blake2b(whole, digest_size=32).digest()


def _key_part(name: str, value: Any) -> bytes:
    match value:
        case None:
            return b"0"
        case bool() | np.bool_():
            return b"1" if value else b"2"
        case str():
            return b"s" + value.encode("utf-8", "surrogatepass")
        case bytes() | bytearray() | memoryview():
            return b"b" + bytes(value)
        case numbers.Integral() | float() | np.floating() | decimal.Decimal() if not isinstance(value, np.longdouble):
            return _number_part(value)  # a Python float cannot hold a longdouble
        case uuid.UUID():
            return b"u" + value.bytes
        case Timestamp():
            return f"t{value.micros}".encode()
        case datetime.datetime():
            instant = value if value.tzinfo is None else value.astimezone(datetime.UTC)
            return f"m{instant.isoformat()}".encode()
        case datetime.date() | datetime.time():
            return f"m{type(value).__name__}{value.isoformat()}".encode()
    message = (
        f"rows of a query share a text, bytes, a number, a date or time, or a null in {name!r};"
        f" got {type(value).__name__}"
    )
    raise RowError(Stage.READ, Code.UNSUPPORTED, message)


def _number_part(value: Any) -> bytes:
    if isinstance(value, numbers.Integral):
        value = int(value)
    elif not isinstance(value, decimal.Decimal):
        value = float(value)
    number = decimal.Decimal(value)  # exact for every type
    return b"nan" if number.is_nan() else f"n{_EXACT.normalize(number) if number else 0}".encode()
