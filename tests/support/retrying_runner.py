"""A runner that retries bundles, as Dataflow and Flink do, and worse: every bundle may run many times, also at once.

It fuses the steps between two shuffles into stages, cuts their input into bundles, and runs each bundle with pickled
copies of the functions until an attempt has succeeded. What the other attempts output is dropped, also when they come
to an end later, after the stage or after the whole job. Attempts fail, die, or are left for long, at a drawn point:
before and after every call of a function, and before every operation on a file of the output. See `interleaved`.

Windows other than the global one are kept; there are no triggers, no timers and no state.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import pickle
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from apache_beam import Flatten, GroupByKey, ParDo
from apache_beam.internal import pickler
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.pvalue import PCollection
from apache_beam.runners.common import DoFnRunner, DoFnState, Receiver
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState
from apache_beam.transforms.core import Impulse
from apache_beam.transforms.sideinputs import SideInputMap
from apache_beam.utils.counters import CounterFactory
from apache_beam.utils.windowed_value import WindowedValue
from interleaved import Fate, Work, point, step_one

_FAILING = 3
"""Attempts of a bundle that may fail for a drawn reason; after an error of its own it is tried as often again."""
_FATES: tuple[Fate | None, ...] = (None, None, "killed", "failed", "left")


class BundleFailedError(Exception):
    """A bundle failed several times without a drawn reason."""


class RetryingRunner(PipelineRunner):
    """Runs pipelines with drawn failures.

    Attributes:
        counts: How many attempts there were of each kind.
    """

    def __init__(self, seed: object, folder: object, *, look: Callable[[], None] = lambda: None) -> None:
        """Set the schedule.

        Args:
            seed: What is drawn depends on it alone.
            folder: The output; operations on its files are points.
            look: Called again and again between points, to see what a reader sees.
        """
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()
        self._draw = random.Random(str(seed))
        self._folder = str(folder)
        self._look = look
        self._left: list[Work] = []
        self._committed: dict[PCollection, list[WindowedValue]] = {}

    def run_pipeline(self, pipeline: Any, options: Any) -> PipelineResult:
        """Run all stages; raise `BundleFailedError` as a runner that gives up after some attempts."""
        graph = _Graph(pipeline)
        self._committed = collections.defaultdict(list)
        for node in graph.impulses:
            self._committed[node.outputs[None]] = [WindowedValue(b"", 0, (_global_window(),))]
        for root in graph.in_order():
            if isinstance(root.producer.transform, GroupByKey):
                self._committed[root] = _grouped(self._committed[root.producer.inputs[0]])
            self._run_stage(graph.stage_of(root))
        return PipelineResult(PipelineState.DONE)

    def output(self, pcoll: PCollection) -> list[Any]:
        """Return the elements of a PCollection that were committed."""
        return [value.value for value in self._committed[pcoll]]

    def after(self, other: RetryingRunner) -> RetryingRunner:
        """Take over what an earlier job has left: its attempts go on beside this job, and may hold a lock."""
        self._left += other._left
        other._left = []
        return self

    def drain(self) -> None:
        """Let the attempts that are still there come to their ends, after the job."""
        while self.step_left():
            pass

    def step_left(self) -> bool:
        """Let one of the attempts that are still there go on; return whether there was one."""
        self._left = [work for work in self._left if not work.is_over]
        if self._left:
            self._step(self._left)
        return bool(self._left)

    def _run_stage(self, stage: _Stage) -> None:
        waiting = [_Bundle(elements) for elements in self._cut(self._committed[stage.root])]
        sides = {step: stage.side_inputs(step, self._committed) for step in stage.steps}
        try:
            while open_bundles := [bundle for bundle in waiting if not bundle.is_committed]:
                for bundle in open_bundles:
                    live = [work for work in bundle.attempts if not work.is_over and not work.is_left]
                    if not live or (len(live) < 2 and self._draw.random() < 0.01):
                        bundle.attempts.append(self._attempt(stage, sides, bundle))
                self._step([*self._left, *(work for bundle in waiting for work in bundle.attempts)])
                for bundle in open_bundles:
                    self._collect(stage, bundle)
        finally:
            self._left += [work for bundle in waiting for work in bundle.attempts if not work.is_over]

    def _step(self, works: Sequence[Work]) -> None:
        point()  # where the job itself goes by turns with another one
        step_one(list(works), self._draw)
        if self._draw.random() < 0.02:
            self._look()

    def _attempt(self, stage: _Stage, sides: Any, bundle: _Bundle) -> Work:
        fate = self._draw.choice(_FATES) if bundle.drawn < _FAILING else None
        bundle.drawn += fate is not None
        self.counts[fate or "undisturbed"] += 1
        copied = pickle.dumps((bundle.elements, [sides[step] for step in stage.steps]))
        at = self._draw.choice((self._draw.randrange(12), self._draw.randrange(80)))
        worker = stage.idle.pop() if stage.idle and self._draw.random() < 0.5 else None
        return Work(lambda: stage.run(*pickle.loads(copied), worker), self._folder, fate=fate, at=at)

    def _collect(self, stage: _Stage, bundle: _Bundle) -> None:
        """Commit an attempt that succeeded, unless its outputs are lost."""
        for work in [work for work in bundle.attempts if work.is_over]:
            bundle.attempts.remove(work)
            if work.error is not None:
                self.counts["failed by itself"] += 1
                bundle.errors.append(work.error)
                if len(bundle.errors) > _FAILING:
                    raise BundleFailedError(f"{stage.steps[0].full_label} …") from work.error
            elif work.is_done and bundle.drawn < _FAILING and self._draw.random() < 0.2:
                self.counts["lost"] += 1
                bundle.drawn += 1
            elif work.is_done and not bundle.is_committed:
                bundle.is_committed = True
                for pcoll, values in zip(stage.outputs, work.result, strict=True):
                    self._committed[pcoll] += pickle.loads(pickle.dumps(values))

    def _cut(self, elements: list[WindowedValue]) -> Iterable[list[WindowedValue]]:
        elements = list(elements)
        self._draw.shuffle(elements)
        number = min(len(elements), self._draw.randint(1, 3))
        return [elements[start::number] for start in range(number)]


@dataclasses.dataclass
class _Bundle:
    elements: list[WindowedValue]
    attempts: list[Work] = dataclasses.field(default_factory=list)
    errors: list[BaseException] = dataclasses.field(default_factory=list)
    drawn: int = 0
    is_committed: bool = False


class _Graph(PipelineVisitor):
    """The primitive steps of a pipeline, and where they are cut into stages."""

    def __init__(self, pipeline: Any) -> None:
        self.nodes: list[AppliedPTransform] = []
        self.impulses: list[AppliedPTransform] = []
        pipeline.visit(self)
        known = (Impulse, ParDo, Flatten, GroupByKey)
        assert all(isinstance(node.transform, known) for node in self.nodes), "a step that this runner does not know"
        self.consumers: dict[PCollection, list[AppliedPTransform]] = collections.defaultdict(list)
        for node in self.nodes:
            for pcoll in node.inputs:
                self.consumers[pcoll].append(node)
        shuffled = [node.outputs[None] for node in self.nodes if isinstance(node.transform, GroupByKey)]
        self.roots = [*(node.outputs[None] for node in self.impulses), *shuffled]
        for root in self.roots:  # grows: what waits for a side input that its own stage makes is a stage of its own
            for node in self._fused(root):
                if any(root in self._above(side.pvalue) for side in node.side_inputs):
                    self.roots += [pcoll for pcoll in node.inputs if pcoll not in self.roots]

    def visit_transform(self, node: AppliedPTransform) -> None:
        self.nodes.append(node)
        if isinstance(node.transform, Impulse):
            self.impulses.append(node)

    def _above(self, pcoll: Any) -> set[PCollection]:
        """Return the PCollections that one is made of, itself included."""
        found, to_do = set(), [pcoll]
        while to_do:
            one = to_do.pop()
            if isinstance(one, PCollection) and one not in found:
                found.add(one)
                if one.producer is not None:
                    to_do += [*one.producer.inputs, *(side.pvalue for side in one.producer.side_inputs)]
        return found

    def _fused(self, root: PCollection) -> list[AppliedPTransform]:
        """Return the steps that read a root, and those behind them up to the next roots, in order."""
        reached, steps = {root}, []
        for node in self.nodes:
            if not isinstance(node.transform, GroupByKey) and reached.intersection(node.inputs):
                steps.append(node)
                reached |= {pcoll for pcoll in node.outputs.values() if pcoll not in self.roots}
        return steps

    def in_order(self) -> list[PCollection]:
        """Return the roots, each behind those that it needs, for itself or for its side inputs."""
        needs = {
            root: set().union(
                self._above(root),
                *(self._above(side.pvalue) for node in self._fused(root) for side in node.side_inputs),
            )
            - {root}
            for root in self.roots
        }
        ordered: list[PCollection] = []
        while left := [root for root in self.roots if root not in ordered]:
            ordered.append(next(root for root in left if not needs[root].intersection(left)))
        return ordered

    def stage_of(self, root: PCollection) -> _Stage:
        steps = self._fused(root)
        made = [pcoll for node in steps for pcoll in node.outputs.values()]
        return _Stage(root, steps, made)


@dataclasses.dataclass
class _Stage:
    """Steps that a bundle takes in one go."""

    root: PCollection
    steps: list[AppliedPTransform]
    outputs: list[PCollection]
    idle: list[list[Any]] = dataclasses.field(default_factory=list)
    """Functions of workers that have run a bundle, and take another one."""

    def side_inputs(self, step: AppliedPTransform, committed: Any) -> list[tuple[Any, Any, list[WindowedValue]]]:
        return [(type(side), side._view_options(), committed[side.pvalue]) for side in step.side_inputs]

    def run(
        self, elements: list[WindowedValue], sides: list[Any], worker: list[Any] | None
    ) -> list[list[WindowedValue]]:
        """Run a bundle as a worker does; return what it outputs, for each of `outputs`.

        `worker` has the functions of a worker that has run one before; None starts another worker.
        """
        made: dict[PCollection, list[WindowedValue]] = {pcoll: [] for pcoll in self.outputs}
        receivers: dict[PCollection, _Receiver] = {pcoll: _Receiver(made[pcoll]) for pcoll in self.outputs}
        calls = [step for step in self.steps if isinstance(step.transform, ParDo)]
        functions = worker or [pickler.loads(pickler.dumps(step.transform.dofn)) for step in calls]
        running: list[DoFnRunner] = []
        heads: list[Receiver] = []
        for step, views in zip(self.steps, sides, strict=True):
            taker: Any = receivers[step.outputs[None]]
            if step in calls:
                running.append(_runner(step, functions[len(running)], views, receivers))
                taker = _Calling(running[-1])
            for pcoll in step.inputs:
                if pcoll in receivers:
                    receivers[pcoll].takers.append(taker)
                elif pcoll is self.root:
                    heads.append(taker)
        _run_bundle(running, heads, elements, is_new=worker is None)
        self.idle.append(functions)
        return [made[pcoll] for pcoll in self.outputs]


def _runner(step: AppliedPTransform, function: Any, views: Any, receivers: Any) -> DoFnRunner:
    transform: Any = step.transform
    return DoFnRunner(
        function,
        transform.args,
        transform.kwargs,
        [SideInputMap(*view) for view in views],
        step.inputs[0].windowing,
        tagged_receivers={tag: receivers[pcoll] for tag, pcoll in step.outputs.items()},
        step_name=step.full_label,
        state=DoFnState(CounterFactory()),
    )


def _run_bundle(
    running: Sequence[DoFnRunner], heads: Sequence[Receiver], elements: Iterable[WindowedValue], *, is_new: bool
) -> None:
    """Call functions in the order of a worker. After an error they are torn down; else they take another bundle."""
    try:
        for runner in running if is_new else ():
            runner.setup()
            point()
        for runner in reversed(running):  # whoever takes is ready before anything is given
            runner.start()
            point()
        for element in elements:
            for head in heads:
                head.receive(element)
        for runner in running:
            point()
            runner.finish()
            point()
    except BaseException:
        for runner in running:
            with contextlib.suppress(Exception):  # the first error counts
                runner.teardown()
        raise


class _Receiver(Receiver):
    """Keeps the elements of a PCollection, and hands them on within the bundle."""

    def __init__(self, kept: list[WindowedValue]) -> None:
        self.takers: list[Any] = []
        self._kept = kept

    def receive(self, windowed_value: WindowedValue) -> None:
        self._kept.append(windowed_value)
        for taker in self.takers:
            taker.receive(windowed_value)


class _Calling(Receiver):
    """Calls a function with each element."""

    def __init__(self, runner: DoFnRunner) -> None:
        self._runner = runner

    def receive(self, windowed_value: WindowedValue) -> None:
        point()
        self._runner.process(windowed_value)
        point()


def _grouped(values: Iterable[WindowedValue]) -> list[WindowedValue]:
    groups: dict[Any, list[Any]] = {}
    keys: dict[Any, Any] = {}
    for value in values:
        for window in value.windows:
            key, one = value.value
            place = (pickle.dumps(key), window)
            keys[place] = key
            groups.setdefault(place, []).append(one)
    return [WindowedValue((keys[place], ones), place[1].max_timestamp(), (place[1],)) for place, ones in groups.items()]


def _global_window() -> Any:
    from apache_beam.transforms.window import GlobalWindow

    return GlobalWindow()
