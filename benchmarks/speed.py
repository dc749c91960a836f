"""Rates of all contenders: images, 12-megapixel photos, texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ours import bare_loop, core, limit, model_only, on_beam, on_spark
from plain import (
    BATCH,
    SERVICE_THREADS,
    PlainHandler,
    onnx_service,
    plain_loop,
    plain_udf,
    predict_batches,
    run_inference,
)
from turns import Contender, Rates, rate_table, take_turns
from workload import captions, large_photographs, photographs
from workplace import ARCHITECTURE, Workplace

from clipmill.models.spec import Modality


@dataclasses.dataclass(frozen=True)
class Size:
    """The amount of work.

    Attributes:
        slow: Rows for contenders that need tens of milliseconds per row.
        fast: Rows for the others.
        rounds: The number of rounds after the one that warms up.
        batches: The minimum number of whole batches for B.
        engines: The precisions in which photos go through Beam and Spark.
    """

    slow: int
    fast: int
    rounds: int
    batches: int = 2 * SERVICE_THREADS
    engines: tuple[str, ...] = ("fp32", "auto")


def measure_images(place: Workplace, size: Size) -> Rates:
    """Measure all contenders on photos of 480 to 900 pixels."""
    files = photographs(size.fast)
    contenders = [
        *_plain_alone(place, "image", files[: size.slow], for_b(files, size)),
        *_plain_engines(place, "image", files[: size.slow]),
        bare_loop("auto", place.spec("auto"), files),
        *_own(place, "image", files, alone=True, engines=size.engines),
    ]
    return take_turns(contenders, size.rounds)


def measure_large(place: Workplace, size: Size) -> Rates:
    """Measure photos of 12 megapixels, some of them repeatedly."""
    distinct = large_photographs(size.slow // 2)
    files = [distinct[number % len(distinct)] for number in range(size.fast)]
    contenders = [
        *_plain_alone(place, "image", files[: size.slow], for_b(files, size)),
        *_own(place, "image", files),
    ]
    return take_turns(contenders, size.rounds)


def measure_texts(place: Workplace, size: Size) -> Rates:
    """Measure captions of 5 to 15 words."""
    texts = captions(size.fast)
    contenders = [
        *_plain_alone(place, "text", texts[: size.slow], for_b(texts, size)),
        limit("auto", place.spec("auto"), "text", texts),
        *_own(place, "text", texts, alone=True, engines=("auto",)),
    ]
    return take_turns(contenders, size.rounds)


def measure_long_texts(place: Workplace, size: Size) -> Rates:
    """Measure captions of 60 words."""
    texts = captions(size.fast // 8, words=(60, 60))
    alone = _plain_alone(place, "text", texts[: size.slow], for_b(texts, size))
    contenders = [*alone, *_own(place, "text", texts)]
    return take_turns(contenders, size.rounds)


def for_b(values: Sequence[Any], size: Size) -> list[Any]:
    """Return the values for B. Its threads take whole batches, so all four of them need several each."""
    count = max(2 * size.slow, size.batches * BATCH)
    return [values[number % len(values)] for number in range(count)]


def speed_table(rates: Rates, unit: str) -> list[str]:
    """Return the lines of a table that compares each contender with A, B and the core where those were measured."""
    return rate_table(rates, unit, [base for base in ("A", "B", "core, fp32", "core, auto") if base in rates])


def _plain_alone(place: Workplace, modality: str, for_a: Sequence[Any], for_b: Sequence[Any]) -> list[Contender]:
    return [plain_loop(place.plain, modality, for_a), onnx_service(place.service, modality, for_b)]


def _plain_engines(place: Workplace, modality: str, values: Sequence[Any]) -> list[Contender]:
    table = place.table(f"slow-{modality}", values)
    of = ARCHITECTURE, place.weights, modality
    return [
        run_inference(PlainHandler(*of), table, len(values)),
        predict_batches(plain_udf(*of), *place.frames(table), len(values)),
    ]


def _own(
    place: Workplace,
    modality: Modality,
    values: Sequence[Any],
    *,
    alone: bool = False,
    engines: Sequence[str] = (),
) -> list[Contender]:
    """Return clipmill's contenders in both precisions.

    Args:
        place: The workplace with the weights.
        modality: The modality of the values.
        values: The values to embed.
        alone: Whether to include the model alone.
        engines: The precisions in which to include Beam and Spark.
    """
    made: list[Contender] = []
    for precision in ("fp32", "auto"):
        spec = place.spec(precision)
        ways: list[Callable[..., Contender]] = [*([model_only] if alone else []), core]
        made += [way(precision, spec, modality, values) for way in ways]
        if precision in engines:
            table = place.table(f"fast-{modality}", values)
            made.append(on_beam(precision, spec, modality, table, len(values)))
            made.append(on_spark(precision, spec, modality, *place.frames(table), len(values)))
    return made
