"""Install a wheel into fresh environments and use it from a directory outside the clone.

    python tools/test_installed.py dist/clipmill-0.1.0-py3-none-any.whl

One environment is made with the steps of the container images (docker/install.sh), first as the `cpu` image and then
as the `gpu` image, and a model is exported there. The others are without torch: one for each graph runtime, among
them ONNX Runtime's build for GPUs, which must run without a GPU, and one of them with Beam. Their size is limited.

Needs only the standard library, bash and uv, which links files from its cache: on the same file system, environments
take next to no disk. Each is removed when it was used.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

DOCKER = Path(__file__).resolve().parent.parent / "docker"
LIGHT = ("onnx", "onnx-gpu", "beam,openvino")
"""Extras of the environments without torch."""
MOST_BYTES = 1.2e9
"""Of such an environment, except for that of ONNX Runtime's build for GPUs."""

IMPORT_ALL = """
import importlib, sys
prefix = sys.argv[1]
for name in sys.argv[2:]:
    module = importlib.import_module(name)
    assert module.__file__.startswith(prefix), f"{name} came from {module.__file__}, not from {prefix}"
"""


EMBED = """
import sys
import numpy as np
from clipmill.encoders import load_encoder
encoder = load_encoder(sys.argv[1], device="cpu", runtime=sys.argv[2], precision="fp32", decode="exact")
texts = encoder.embed_texts(["a red circle", "two small blue stars", "she smiled, with pain"])
pictures = np.random.default_rng(0).integers(0, 256, (3, 90, 120, 3), np.uint8)
np.savez(sys.argv[3], texts=texts, images=encoder.embed_images(pictures))
"""

COMPARE = """
import sys
import numpy as np
ours, theirs = (np.load(name) for name in sys.argv[1:3])
for name in ("texts", "images"):
    errors = np.linalg.norm(ours[name] - theirs[name], axis=1) / np.linalg.norm(theirs[name], axis=1)
    assert errors.max() <= 1e-4, f"{name}: {errors}"
    assert np.linalg.norm(theirs[name][0] - theirs[name][1]) > 0.1, "vectors that are all alike prove nothing"
"""

REFUSE_CUDA = """
import sys
from clipmill.encoders import load_encoder
from clipmill.models.support_matrix import may_have_gpu
from clipmill.errors import DeviceError
try:
    load_encoder(sys.argv[1], device="cuda")
except DeviceError as err:
    print(f"device='cuda' is refused: {err}")
else:
    assert may_have_gpu(), "a CUDA device where there is none"
"""


def modules_of(wheel: Path) -> list[str]:
    """Return the name of every module in a wheel. Walking packages would miss folders without an `__init__.py`."""
    with zipfile.ZipFile(wheel) as archive:
        files = [name.removesuffix(".py") for name in archive.namelist() if name.endswith(".py")]
    return sorted(name.removesuffix("/__init__").replace("/", ".") for name in files)


def image_versions() -> dict[str, str]:
    """Return the engines' versions in the images, by the names of their build arguments."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    found = dict(re.findall(r"^ARG (BEAM_VERSION|SPARK_VERSION)=(\S+)$", text, re.MULTILINE))
    assert len(found) == 2, f"docker/Dockerfile sets BEAM_VERSION and SPARK_VERSION, found {found}"
    return found


class Environment:
    """A fresh virtual environment, used from another directory."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = (folder / name).resolve()
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir(exist_ok=True)
        self.python = self.folder / "bin" / "python"
        # Modules must not come from the clone or another environment; graphs are built again.
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.environ["CLIPMILL_CACHE"] = str(folder / "cache")
        self.environ["PIP_NO_CACHE_DIR"] = "1"
        self.environ["PATH"] = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        venv.create(self.folder, with_pip=True)

    def run(self, *command: str | Path, quiet: bool = False) -> None:
        """Run one of its commands; a failure ends the test."""
        stdout = subprocess.DEVNULL if quiet else None
        subprocess.run(command, cwd=self.elsewhere, env=self.environ, stdout=stdout, check=True)

    def uv_pip(self, command: str, *arguments: str | Path) -> None:
        """Run uv in place of its pip."""
        self.run(sys.executable, "-m", "uv", "pip", command, "--quiet", "--python", self.python, *arguments)

    def remove(self) -> None:
        """Remove its files; the disk may be too small for several of them."""
        shutil.rmtree(self.folder)


def install_as_image(environment: Environment, flavour: str, wheel: Path) -> None:
    """Run the images' own steps, which end with embedding a text, and check what they made for Spark."""
    started = time.monotonic()
    spark_home = environment.folder / "spark"
    environment.run("bash", DOCKER / "install.sh", flavour, wheel, spark_home)
    for part in ("bin/spark-submit", "jars", "python/lib/pyspark.zip", "sbin"):
        place = (spark_home / part).resolve(strict=True)
        assert place.is_relative_to(environment.folder / "lib"), f"{part} of Spark is {place}"
    assert list(spark_home.glob("jars/spark-kubernetes_*.jar")), "this pyspark cannot run on Kubernetes"
    print(f"ran docker/install.sh {flavour} in {time.monotonic() - started:.0f} s")


def check_whole(wheel: Path, folder: Path) -> None:
    """Install everything, import every module, export the demo model and embed with torch."""
    modules = modules_of(wheel)
    versions = image_versions()
    environment = Environment(folder, "whole")
    environment.environ |= versions
    # With the same requirements as docker/install.sh, whose pip would download and write gigabytes a second time. It
    # finds them met, and checks them.
    pins = f"apache-beam=={versions['BEAM_VERSION']}", f"pyspark=={versions['SPARK_VERSION']}"
    environment.uv_pip("install", f"{wheel}[all]", *pins)
    install_as_image(environment, "cpu", wheel)
    environment.run(environment.python, "-c", IMPORT_ALL, str(environment.folder), *modules)
    print(f"imported {len(modules)} modules from the wheel")
    environment.run(environment.folder / "bin" / "clipmill", "--help", quiet=True)
    environment.run(environment.python, "-m", "clipmill", "--help", quiet=True)
    print("ran clipmill --help and python -m clipmill --help")
    environment.run(environment.folder / "bin" / "clipmill", "export", "demo", folder / "exported")
    environment.run(environment.python, "-c", EMBED, "demo", "torch", folder / "torch.npz")
    # The other image differs in ONNX Runtime's build, and the two builds can't be installed together. A second
    # environment would install torch again for no benefit.
    environment.uv_pip("uninstall", "onnxruntime")
    install_as_image(environment, "gpu", wheel)
    environment.remove()


def check_light(wheel: Path, folder: Path, extras: str) -> None:
    """Install clipmill without torch; the vectors of the demo and of an exported model must equal those of torch."""
    environment = Environment(folder, extras)
    environment.uv_pip("install", f"{wheel}[{extras}]")
    environment.run(environment.python, "-c", "import importlib.util as util; assert util.find_spec('torch') is None")
    exported, vectors = f"onnx:{folder / 'exported'}", folder / f"{extras}.npz"
    runtime = "openvino" if "openvino" in extras else "onnx"
    for model in ("demo", exported):
        environment.run(environment.python, "-c", EMBED, model, runtime, vectors)
        environment.run(environment.python, "-c", COMPARE, vectors, folder / "torch.npz")
    environment.run(environment.python, "-c", REFUSE_CUDA, exported)
    size = sum(file.lstat().st_size for file in environment.folder.rglob("*"))
    assert size < MOST_BYTES or extras == "onnx-gpu", f"an environment of clipmill[{extras}] has {size:,} bytes"
    print(f"embedded with clipmill[{extras}], {size / 1e6:,.0f} MB without torch: the vectors of torch")
    environment.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel.resolve()
    with tempfile.TemporaryDirectory(prefix="clipmill-installed-") as name:
        folder = Path(name).resolve()
        check_whole(wheel, folder)
        for extras in LIGHT:
            check_light(wheel, folder, extras)


if __name__ == "__main__":
    sys.exit(main())
