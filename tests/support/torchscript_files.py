"""TorchScript archives, and the same with other pickles, programs or packing."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2).half()
        self.empty = torch.nn.Parameter(torch.zeros(0, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Network(torch.nn.Module):
    """Shared storages, views, types and attributes that are no parameters, as in published archives."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.arange(12.0).reshape(3, 4)
        self.view = torch.nn.Parameter(table.t()[1:3])
        self.register_buffer("row", table[2])
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("brain", torch.ones(2, dtype=torch.bfloat16))
        self.register_buffer("wide", torch.ones(1).expand(5))
        self.blocks = torch.nn.Sequential(Layer(), Layer(), torch.nn.BatchNorm1d(2))
        self.attn_mask = torch.full((2, 2), -1.0)
        self.names = ["a", "b"]
        self.sizes = {"a": 1}
        self.name = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attn_mask.sum()


def write_archive(network: torch.nn.Module, path: Path, *, traced: bool = False) -> Path:
    """Write a network as a TorchScript archive."""
    made = torch.jit.trace(network, torch.zeros(2)) if traced else torch.jit.script(network)
    made.save(str(path))
    return path


def changed_archive(path: Path, pickled: bytes | None = None, code: object = None, *, compress: bool = False) -> Path:
    """Write an archive again, beside it, with another pickle, another program or compressed tensors."""
    made = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if pickled is not None and name.endswith("/data.pkl"):
                content = pickled
            if code is not None and name.endswith(".py"):
                content = code(content)  # type: ignore[operator]
            new.writestr(name, content, zipfile.ZIP_DEFLATED if compress and "/data/" in name else zipfile.ZIP_STORED)
    target = path.with_name(f"changed-{path.name}")
    target.write_bytes(made.getvalue())
    return target
