"""Decides how many worker processes share the cores of a machine."""

from __future__ import annotations

import os

from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)

from ..threads import Cores


def cores_per_process(options: PipelineOptions, runner: object = None) -> Cores:
    """Return the cores that one worker process of a pipeline may use.

    `runner` is the pipeline's runner, if it was given as an object instead of an option.
    """
    name = f"{options.view_as(StandardOptions).runner or ''} {type(runner).__name__}"
    if "Dataflow" in name:
        # One process for each core, perhaps in a container of its own, unless an experiment disables it.
        experiments = options.view_as(DebugOptions).experiments or []
        return Cores() if "no_use_multiple_sdk_containers" in experiments else Cores(None)
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode == "multi_processing":
        return Cores(direct.direct_num_workers or os.cpu_count() or 1, on_one_host=True)
    # Flink and Spark start so many for each of their own workers, about one for each core if it is 0
    return Cores(int(options.view_as(PortableOptions).sdk_worker_parallelism) or None)
