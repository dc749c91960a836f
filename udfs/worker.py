"""The resources of a Spark task: the GPU that Spark assigned to it, its cores, and the encoder that fits them."""

from __future__ import annotations

import dataclasses
import os
import re

from pyspark import TaskContext

from ..encoders import Encoder, EncoderSpec, load_encoder
from ..errors import DeviceError
from ..messages import setting
from ..threads import CpuShare


def spec_of_task(spec: EncoderSpec, task: TaskContext | None) -> EncoderSpec:
    """Pin a spec to the GPU of its task.

    Args:
        spec: As planned. `auto` and `cuda` become the task's own GPU; `cpu` and `cuda:X` stay as they are.
        task: None outside of a task.

    Returns:
        The spec to load; the same where Spark manages no GPUs.

    Raises:
        DeviceError: If the GPU has an address that is no number.
    """
    if task is None or spec.device not in ("auto", "cuda"):
        return spec
    gpu = task.resources().get("gpu")
    if gpu is None or not gpu.addresses:
        return spec
    address = str(gpu.addresses[0])
    if not address.isdecimal():
        raise DeviceError(
            f"Spark gave this task the GPU {address!r}, which is no number",
            hint="make the discovery script (spark.worker.resource.gpu.discoveryScript) print 0, 1, …, or name one: "
            + setting("device", "cuda:0"),
        )
    return dataclasses.replace(spec, device=f"cuda:{address}")


def is_from_spark(planned: EncoderSpec, placed: EncoderSpec) -> bool:
    """Return whether `spec_of_task` took the device from the task's resources, which Spark may change any time."""
    return placed.device != planned.device


def cpus_of_task(task: TaskContext | None) -> int | None:
    """Return the cores of a task, with the number of Python workers beside it where Spark says it; None outside of one.

    An executor has as many workers as tasks fit its cores: `spark.executor.cores`, or those of a local master.
    """
    if task is None:
        return None
    local = re.fullmatch(r"local\[(\d+|\*)(,.*)?\]", task.getLocalProperty("spark.master") or "")
    cores = task.getLocalProperty("resource.executor.cores") or (local[1] if local else "")
    if cores == "*":
        cores = str(os.cpu_count())
    return CpuShare(task.cpus(), max(1, int(cores) // task.cpus())) if cores.isdecimal() else task.cpus()


def encoder_of_task(spec: EncoderSpec, task: TaskContext | None = None) -> Encoder:
    """Return the encoder for the task that runs in this Python worker, loaded once for all its tasks.

    Args:
        spec: As planned.
        task: The running task if None.

    Returns:
        The encoder on the task's GPU, with as many threads as the task has cores: Spark sets OMP_NUM_THREADS to 1,
        so that left alone a library would take one. A worker that Spark moved to another GPU lets the first copy go;
        devices that the user named stay side by side, since the expressions of one select share a worker.
    """
    task = task or TaskContext.get()
    placed = spec_of_task(spec, task)
    return load_encoder(placed, cpus=cpus_of_task(task), exclusive=is_from_spark(spec, placed))
