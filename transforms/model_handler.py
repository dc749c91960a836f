"""`ClipModelHandler`: clipmill's encoders behind Beam's `RunInference`.

Use it where a pipeline has `RunInference` already. `Embed` does the same without a batching stage before it, so that
fetching and decoding of one batch overlap with the model's work on another, and it knows how many worker processes
share a machine.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, PredictionResult

from ..encoders.plans.embed_plan import Column, ColumnPlan
from ..encoders.plans.kinds import Kind, check_kind
from ..encoders.plans.runner import Done, PlanRunner
from ..encoders.plans.value_plan import ValuePlan
from ..errors import SpecError, check_choice, check_flags, check_integer
from ..messages import setting
from ..metrics.counts import MODELS_LOADED, Counts, counts_of, record
from ..metrics.stats import Stats
from ..models.spec import EncoderSpec, Modality, reject_unknown_options
from ..threads import Cores
from .elements import Elements, RowElements, count_refused, source_bytes
from .embeddable import ValueElements
from .failed_row import FailedRow, FailedRowError
from .meter import BundleMeter

__all__ = ["ClipModelHandler", "PredictionResult", "raise_failed"]

Failures = Literal["raise", "result"]

BATCHING = {
    "min_batch_size": "min_batch_size",
    "max_batch_size": "max_batch_size",
    "max_batch_duration_secs": "max_batch_duration_secs",
    "max_batch_weight": "max_batch_weight",
    "element_size_fn": "element_size_fn",
    "batch_length_fn": "length_fn",
    "batch_bucket_boundaries": "bucket_boundaries",
}
"""Beam's names of batching options of model handlers, and the names that `beam.BatchElements` has for them."""

_CPU_ROWS, _WINDOW = 32, 4
"""The rows of a micro-batch on a CPU, and the micro-batches that a session works on at a time."""


class Predictor:
    """A loaded model with its plan: what `RunInference` holds as the model, perhaps in a process of its own."""

    def __init__(self, spec: EncoderSpec, elements: Elements, cores: Cores) -> None:
        """Load the model, unless this process has loaded it."""
        self._elements = elements
        self._meter = BundleMeter()
        self._runner = PlanRunner(elements.plan, self._meter.load(spec, cpus=cores.here()))

    def predict(self, batch: Sequence[Any]) -> tuple[list[Any], Counts]:
        """Embed a batch in a session of its own.

        Returns:
            The result of each element, in order: a vector, a dict of new columns, None, or a `FailedRow`; and the
            counts, which the caller reports to Beam.
        """
        stats = Stats()
        results: list[Any] = [None] * len(batch)
        finished: list[Done] = []
        with self._runner.session(stats) as session:
            for number, element in enumerate(batch):
                source = self._elements.read(element)
                if isinstance(source, FailedRow):
                    count_refused(stats, source)
                    results[number] = source
                else:
                    finished += session.push((element, number), source, nbytes=source_bytes(source))
            finished += session.flush()
        for done in finished:
            value, failures, _ = done.result
            failed = FailedRow(self._elements.output(done), tuple(failures)) if failures else None
            results[done.token[1]] = failed or value
        counts = counts_of(stats)
        record(counts)
        return results, {**counts, (MODELS_LOADED, ""): self._meter.take_loads()}


class ClipModelHandler(ModelHandler[Any, PredictionResult, Predictor]):
    """Embeds what `RunInference` gives it, by the same session as `Embed`, and so with the same vectors.

    Without `columns`, elements are values: texts, encoded bytes, arrays, Pillow images, `Document`s, and the items of
    `apache_beam.ml.rag`. The `inference` of their `PredictionResult` is the vector, (dim,) float32. With `columns`,
    elements are dicts, `beam.Row`s or NamedTuples, and `inference` is a dict of the new columns by name. Null gives
    null.

    A bad row never affects its batch. `RunInference` sends whole batches to its dead letters when a handler raises, so
    this one does not: it returns a `FailedRow` for the bad row, and a postprocessing step, which Beam runs row by row,
    raises it. With `with_exception_handling()`, rows that failed are therefore in `failed_postprocessing[0]`, each as
    `(PredictionResult, (type, message, traceback))` with the `FailedRow` as `inference`; only errors of a whole batch
    are in `failed_inferences`. Without it, the first bad row ends the job, as do missing weights in any case.

    Beam's keyed handlers refuse a handler with a postprocessing step of its own. Add it outside:

        keyed = KeyedModelHandler(ClipModelHandler("ViT-B-32::openai", failures="result"))
        RunInference(keyed.with_postprocess_fn(raise_failed)).with_exception_handling()

    `RunInference` counts batches in the namespace `BeamML_clipmill`; the metrics of `Embed` are in `clipmill`, as
    always. A model that arrives by `watch_model_pattern` or `model_metadata_pcoll` is named as in `EncoderSpec`.

    >>> import apache_beam as beam
    >>> from apache_beam.ml.inference.base import RunInference
    >>> from clipmill.transforms import ClipModelHandler
    >>> with beam.Pipeline() as p:
    ...     results = p | beam.Create(["a red circle"]) | RunInference(ClipModelHandler("demo"))
    ...     _ = results | beam.Map(lambda result: print(result.example, result.inference.shape, result.model_id))
    a red circle (96,) demo

    Attributes:
        spec: The encoder.
    """

    def __init__(
        self,
        model: str | EncoderSpec | None = None,
        *,
        columns: Mapping[str, Modality | Column] | None = None,
        kind: Kind = "auto",
        key: str = "id",
        failures: Failures = "raise",
        worker_processes: int | None = 1,
        large_model: bool = False,
        model_copies: int | None = None,
        env_vars: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Check everything that can be checked without weights.

        Args:
            model: Name of a model or a spec; `ViT-B-32::openai` without one.
            columns: Kind (`text`, `image`, `audio`, or a `Column`) by column or path into a struct; None for values.
            kind: Kind of values: `text`, `image`, `audio` (strings in the last two are URIs), or `auto`: strings are
                texts, and bytes are identified by their content.
            key: Column that names a row in its failures.
            failures: `raise`: see above. `result`: a bad row is a result whose `inference` is a `FailedRow`.
            worker_processes: Processes that share the cores of a machine: 1, or None for one per core, as on Dataflow
                unless `--experiments=no_use_multiple_sdk_containers` is given.
            large_model: Whether one process holds the model for all worker processes of a machine, as in Beam's own
                handlers; see `encoder_process` of `EncoderSpec` for a way that copies less.
            model_copies: How many processes hold it; implies `large_model`.
            env_vars: Environment variables that are set before the model is loaded.
            **options: Beam's `min_batch_size`, `max_batch_size` (4 micro-batches by default, since batches wait in
                memory), `max_batch_duration_secs`, `max_batch_weight`, `element_size_fn`, `batch_length_fn`,
                `batch_bucket_boundaries`; and fields of `EncoderSpec`, such as `max_batch_rows`.

        Raises:
            SpecError: If something cannot work, or this version of Beam lacks an option.
            TypeError: If an option is unknown or has another name here.
        """
        super().__init__()
        signature = inspect.signature(ClipModelHandler)
        own = {name for name, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD}
        reject_unknown_options(options, own | set(BATCHING) | EncoderSpec.__dataclass_fields__.keys())
        batching = {name: options.pop(name) for name in BATCHING if name in options}
        self.spec = EncoderSpec.of(model, **options)
        check_choice("failures", failures, get_args(Failures))
        check_flags(large_model=large_model)
        _check_variables(env_vars)
        for name, number in {"worker_processes": worker_processes, "model_copies": model_copies}.items():
            if number is not None:
                check_integer(name, number)
        self._elements = _elements(self.spec, columns, kind, key)
        self._failures: Failures = failures
        self._cores = Cores(worker_processes)
        self._copies = model_copies
        self._is_shared = large_model or model_copies is not None
        self._env_vars = dict(env_vars or {})
        self._batching = _batching(batching, self.spec)
        self._meter = BundleMeter()

    def load_model(self) -> Predictor:
        """Load the model, unless this process has loaded it."""
        return Predictor(self.spec, self._elements, self._cores)

    def run_inference(
        self, batch: Sequence[Any], model: Predictor, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionResult]:
        """Return a result for each element, in order."""
        examples = list(batch)
        results, counts = model.predict(examples)
        self._meter.tell(counts)
        pairs = zip(examples, results, strict=True)
        return [PredictionResult(example, result, self.spec.model) for example, result in pairs]

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """Return the bytes of the contents, without pickling them, as Beam would."""
        return sum(source_bytes(self._elements.read(element)) for element in batch)

    def get_metrics_namespace(self) -> str:
        """Return the namespace of the metrics of `RunInference`."""
        return "BeamML_clipmill"

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Return the arguments of `beam.BatchElements`."""
        return self._batching

    def validate_inference_args(self, inference_args: dict[str, Any] | None) -> None:
        """Refuse arguments, which would have no effect."""
        if inference_args:
            given = ", ".join(sorted(inference_args))
            raise SpecError(f"inference_args ({given}) have no effect; give options to ClipModelHandler")

    def update_model_path(self, model_path: str | None = None) -> None:
        """Take another model, named as in `EncoderSpec`."""
        if model_path:
            self.spec = EncoderSpec(**{**self.spec.as_dict(), "model": model_path})

    def get_postprocess_fns(self) -> Iterable[Callable[[Any], Any]]:
        """Return what raises bad rows, one by one."""
        return [raise_failed] if self._failures == "raise" else []

    def share_model_across_processes(self) -> bool:
        """Return whether one process holds the model for all."""
        return self._is_shared

    def model_copies(self) -> int:
        """Return how many processes hold the model, if it is shared."""
        return self._copies or 1

    def __repr__(self) -> str:
        return f"ClipModelHandler({self.spec.model!r})"


def raise_failed(prediction: Any) -> Any:
    """Return a `PredictionResult`, keyed or not, or raise `FailedRowError` if its `inference` is a `FailedRow`.

    The postprocessing step of `ClipModelHandler`; see there when it must be added by hand.
    """
    result = prediction if isinstance(prediction, PredictionResult) else prediction[1]
    if isinstance(result.inference, FailedRow):
        hint = "RunInference(…).with_exception_handling() puts such rows into failed_postprocessing"
        raise FailedRowError(result.inference.failures, str(result.model_id), hint)
    return prediction


def _elements(
    spec: EncoderSpec, columns: Mapping[str, Modality | Column] | None, kind: Kind, key: str
) -> RowElements | ValueElements:
    """Return the adapter of elements; raise `SpecError` for options that belong to the other kind of them."""
    if columns is not None:
        if kind != "auto":
            raise SpecError(setting("kind", kind) + " is for values; columns name their own kinds")
        return RowElements(ColumnPlan.of(columns, spec=spec, key=key))
    if key != "id":
        raise SpecError(setting("key", key) + " is for rows; it has no effect without columns")
    check_kind("kind", kind, spec)
    return ValueElements(ValuePlan(kind), "columns={'name': 'text'}")


def _batching(given: Mapping[str, Any], spec: EncoderSpec) -> dict[str, Any]:
    """Return arguments of `beam.BatchElements`; raise `SpecError` for one that this version of Beam lacks."""
    known = inspect.signature(beam.BatchElements.__init__).parameters
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if BATCHING[name] not in known:
            raise SpecError(setting(name) + f" needs a newer Beam; {beam.__version__} cannot batch by it")
        _check_batching(name, value)
    least = chosen.get("min_batch_size", 1)
    most = chosen.setdefault("max_batch_size", max(_WINDOW * (spec.max_batch_rows or _CPU_ROWS), least))
    if least > most:
        raise SpecError(setting("min_batch_size", least) + " is more than " + setting("max_batch_size", most))
    if "batch_bucket_boundaries" in chosen and "batch_length_fn" not in chosen:
        raise SpecError(
            setting("batch_bucket_boundaries") + " are lengths, so it needs " + setting("batch_length_fn", ...)
        )
    return {BATCHING[name]: value for name, value in chosen.items()}


def _check_batching(name: str, value: Any) -> None:
    """Raise `SpecError` for a value that Beam would fail at when the job runs."""
    if name.endswith("_fn"):
        if not callable(value):
            raise SpecError(setting(name, value) + " is not a function")
    elif name == "batch_bucket_boundaries":
        is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) > 0
        if (
            not is_list
            or not all(isinstance(one, int) and one > 0 for one in value)
            or sorted(set(value)) != list(value)
        ):
            raise SpecError(setting(name, value) + " is not a list of growing lengths above 0")
    elif name == "max_batch_duration_secs":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise SpecError(setting(name, value) + " is not a number of seconds above 0")
    else:
        check_integer(name, value)


def _check_variables(env_vars: Any) -> None:
    """Raise `SpecError` for what cannot be set as environment variables."""
    if env_vars is None:
        return
    if not isinstance(env_vars, Mapping) or not all(isinstance(one, str) for pair in env_vars.items() for one in pair):
        raise SpecError("env_vars must be a mapping of texts such as {'OMP_NUM_THREADS': '1'}, got " + repr(env_vars))
