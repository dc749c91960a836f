"""Decides how many cores each of the engine's processes may use."""

from __future__ import annotations

import os

from apache_beam.options.pipeline_options import DebugOptions, DirectOptions, PipelineOptions, StandardOptions

from ..threads import allowed_cpus


def cpus_per_process(options: PipelineOptions, runner: object = None) -> int | None:
    """Return the cores that one worker process of a pipeline may use; None if it has the machine to itself.

    `runner` is the pipeline's runner, if it was given as an object instead of an option.
    """
    name = f"{options.view_as(StandardOptions).runner or ''} {type(runner).__name__}"
    if "Dataflow" in name:
        # Dataflow starts one process for each core, unless an experiment disables it.
        experiments = options.view_as(DebugOptions).experiments or []
        return None if "no_use_multiple_sdk_containers" in experiments else 1
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode == "multi_processing":
        workers = direct.direct_num_workers or os.cpu_count() or 1
        return max(1, allowed_cpus() // workers)
    return None
