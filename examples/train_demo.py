"""Train the `demo` model on pictures that are drawn for it.

    python examples/train_demo.py        # some 20 minutes; draws, trains, writes the weights, prints the figures

The pairs of colour and shape in `HELD_OUT` never occur together in training, neither in a picture nor in a caption.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from demo_lessons import FIELDS, UNSTATED, Lessons
from evaluate_demo import MODEL_DIR, print_figures
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a training run.

    Attributes:
        seed: The seed of everything random.
        pictures: The number of pictures to draw before the training.
        steps: The number of training batches.
        batch: Pictures in each batch, and as many captions.
        rate: The highest learning rate.
        reading: The weight of the probes' loss relative to that of the captions.
        workers: Processes that draw.
        threads: Compute threads. One, because on shared cores two threads wait for each other most of the time.
    """

    seed: int = 7
    pictures: int = 60_000
    steps: int = 3_500
    batch: int = 128
    rate: float = 2e-3
    reading: float = 1.0
    workers: int = 2
    threads: int = 1


def encode_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """Compute `model.encode_text` on tokens shorter than the context: the same vectors for less work."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), tokens.argmax(dim=1)] @ model.text_projection


def contrast(logits: Tensor, codes: Tensor, claims: Tensor) -> Tensor:
    """Return the cross entropy both ways. A caption that is also true of another picture is no negative example there.

    Args:
        logits: (n, n), pictures in rows, captions in columns.
        codes: (n, fields), the pictures' scenes.
        claims: (n, fields), what the captions state.
    """
    true = ((codes[:, None] == claims[None]) | (claims[None] == UNSTATED)).all(dim=2)
    own = torch.eye(len(logits), dtype=torch.bool)
    logits = logits.masked_fill(true & ~own, -1e4)
    target = torch.arange(len(logits))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


class Probes(nn.Module):
    """Linear probes on the image vector, used only during training.

    With captions alone, the model learns colours at once and shapes late. Linear layers that read every field of the
    scene from the image vector teach the tower earlier which features matter.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fields = nn.ModuleList(nn.Linear(dim, len(values)) for values in FIELDS.values())

    def forward(self, image_vectors: Tensor, codes: Tensor) -> Tensor:
        """Return the sum of the fields' cross entropies.

        Args:
            image_vectors: (n, dim), not normalised.
            codes: (n, fields) int64.
        """
        losses = [functional.cross_entropy(head(image_vectors), codes[:, i]) for i, head in enumerate(self.fields)]
        return torch.stack(losses).sum()


def make_optimizer(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Return AdamW with weight decay only for matrices that every batch uses, so not for the token embedding."""
    decayed = {name for name, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in name}
    groups = [
        {"params": [p for name, p in model.named_parameters() if (name in decayed) is wanted], "weight_decay": decay}
        for wanted, decay in ((True, 0.05), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def train(model: nn.Module, lessons: Lessons, settings: Settings) -> None:
    """Train in place, with a warm-up and then a cosine decay to zero."""
    probes = Probes(model.text_projection.shape[1])
    optimizer = make_optimizer(nn.ModuleList([model, probes]), settings.rate)
    model.train().to(memory_format=torch.channels_last)
    warm, started, losses = settings.steps // 20, time.monotonic(), []
    for step in range(settings.steps):
        wave = 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / (settings.steps - warm)))
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * min((step + 1) / warm, wave)
        picked, images, codes = lessons.sample_images(settings.batch)
        tokens, claims = lessons.write_captions(picked)
        with torch.autocast("cpu", torch.bfloat16):  # halves the time on processors with bfloat16
            raw = model.encode_image(images.contiguous(memory_format=torch.channels_last)).float()
        cosines = functional.normalize(raw, dim=1) @ functional.normalize(encode_text(model, tokens), dim=1).T
        loss = contrast(model.logit_scale.exp() * cosines, codes, claims) + settings.reading * probes(raw, codes)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            mean, seconds = sum(losses[-100:]) / 100, time.monotonic() - started
            print(
                f"step {step + 1:5d}: loss {mean:.4f}, scale {model.logit_scale.exp():.1f}, {seconds:.0f} s", flush=True
            )
    model.eval().to(memory_format=torch.contiguous_format)


def write_model(model: nn.Module, path: Path) -> None:
    """Write the weights as float16 under a temporary name and rename the file."""
    weights = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise RuntimeError(f"not finite as float16: {', '.join(broken)}")
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(save(weights, metadata={"format": "pt"}))
    os.replace(temporary, path)


def main() -> None:
    """Draw, train, write and evaluate; print how long each step took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=MODEL_DIR, help="directory with open_clip_config.json")
    defaults = Settings()
    for name in Settings.__slots__:
        default = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = parser.parse_args()
    settings = Settings(**{name: getattr(arguments, name) for name in Settings.__slots__})
    started = time.monotonic()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    config = json.loads((arguments.output / "open_clip_config.json").read_text())
    model = open_clip.CLIP(**config["model_cfg"])
    lessons = Lessons(
        seed=settings.seed,
        pictures=settings.pictures,
        workers=settings.workers,
        side=config["model_cfg"]["vision_cfg"]["image_size"],
        preprocess=config["preprocess_cfg"],
    )
    print(f"{settings.pictures} pictures drawn after {time.monotonic() - started:.0f} s", flush=True)
    train(model, lessons, settings)
    write_model(model, arguments.output / "open_clip_model.safetensors")
    print(f"trained and written after {time.monotonic() - started:.0f} s", flush=True)
    print_figures(arguments.output)
    print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
