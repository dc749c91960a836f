"""Trains the `demo` model on pictures that are drawn for it.

    python examples/train_demo.py        # some 20 minutes on 2 cores; writes the weights, prints the figures

Colours and shapes of `HELD_OUT` never meet in training, neither on a picture nor in a caption.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import open_clip
import torch
from demo_lessons import FIELDS, NOT_TOLD, Lessons
from evaluate_demo import MODEL_DIR, print_figures
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from clipmill.encoders.demo.drawings import SHAPES


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run depends on.

    Attributes:
        seed: Of everything random.
        pictures: How many are drawn before the training.
        seeing_steps: Batches of the first stage: the image tower and its tutor.
        seeing_batch: Pictures in each; small, since many small steps teach shapes sooner than few large ones.
        naming_steps: Batches of the second stage: both towers.
        naming_batch: Pictures, and as many captions, in each.
        rate: The highest learning rate.
        workers: Processes that draw.
    """

    seed: int = 7
    pictures: int = 80_000
    seeing_steps: int = 4_000
    seeing_batch: int = 64
    naming_steps: int = 1_500
    naming_batch: int = 256
    rate: float = 1e-3
    workers: int = 2


def encode_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """`model.encode_text` on tokens that are shorter than the context: the same vectors for less work."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), tokens.argmax(dim=1)] @ model.text_projection


def contrast(logits: Tensor, codes: Tensor, claims: Tensor) -> Tensor:
    """Cross entropy both ways, where a caption that happens to be true of another picture is no counter-example.

    Args:
        logits: (n, n), pictures down, captions across.
        codes: (n, fields), the pictures' scenes.
        claims: (n, fields), what the captions tell.
    """
    true = ((codes[:, None] == claims[None]) | (claims[None] == NOT_TOLD)).all(dim=2)
    own = torch.eye(len(logits), dtype=torch.bool)
    logits = logits.masked_fill(true & ~own, -1e4)
    target = torch.arange(len(logits))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


class Tutor(nn.Module):
    """Asks the image tower what it sees; thrown away after the training.

    Captions alone teach colours at once and shapes very late. So linear layers read every field of the scene off the
    image vector, paint off the tokens half way up the tower, patch by patch, where shapes lie, and name off the last
    tokens the shape that lies on each patch.
    """

    CELLS = 3  # of the painted mask, along a patch
    COVERED = 0.15  # the part of a patch from which on a shape counts as lying on it

    def __init__(self, visual: nn.Module, dim: int) -> None:
        super().__init__()
        self._patch = visual.patch_size[0]
        self._tokens: dict[str, Tensor] = {}
        width, blocks = visual.conv1.out_channels, visual.transformer.resblocks
        self.fields = nn.ModuleList(nn.Linear(dim, len(values)) for values in FIELDS.values())
        self.cells = nn.Linear(width, self.CELLS**2)
        self.shapes = nn.Linear(width, len(SHAPES) + 1)
        for name, block in (("half way", blocks[len(blocks) // 2 - 1]), ("last", blocks[-1])):
            block.register_forward_hook(partial(self._keep, name))

    def _keep(self, name: str, block: nn.Module, inputs: object, tokens: Tensor) -> None:
        self._tokens[name] = tokens[:, 1:]

    def forward(self, image_vectors: Tensor, codes: Tensor, masks: Tensor) -> Tensor:
        """The weighted sum of the three losses, right after the image tower has run.

        Args:
            image_vectors: (n, dim), not normalised.
            codes: (n, fields).
            masks: (n, 1, side, side), 1 where shapes lie.
        """
        codes = codes.long()
        read = [functional.cross_entropy(head(image_vectors), codes[:, i]) for i, head in enumerate(self.fields)]
        cells = functional.avg_pool2d(masks, self._patch // self.CELLS)
        cells = functional.unfold(cells, self.CELLS, stride=self.CELLS).transpose(1, 2)
        paint = functional.binary_cross_entropy_with_logits(self.cells(self._tokens["half way"]), cells)
        covered = functional.avg_pool2d(masks, self._patch).flatten(1) > self.COVERED
        shapes = torch.where(covered, codes[:, :1], len(SHAPES))
        name = functional.cross_entropy(self.shapes(self._tokens["last"]).flatten(0, 1), shapes.flatten())
        return 4 * torch.stack(read).mean() + 5 * paint + 4 * name


def lay_out_positions(visual: nn.Module) -> None:
    """Starts the positions of the patches as waves along both axes, so that neighbours are alike from the outset."""
    side, width = visual.grid_size[0], visual.conv1.out_channels
    frequencies = 50.0 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequencies
    waves = 0.5 * torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)
    with torch.no_grad():
        visual.positional_embedding[1:] = torch.cat([rows, columns], dim=2).flatten(0, 1)


def make_optimizer(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """AdamW; weight decay only for matrices that every batch uses, so not for the token embedding."""
    decayed = {name for name, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in name}
    groups = [
        {"params": [p for name, p in model.named_parameters() if (name in decayed) is wanted], "weight_decay": decay}
        for wanted, decay in ((True, 0.05), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def train(model: nn.Module, lessons: Lessons, settings: Settings) -> None:
    """Trains in place: first the image tower with its tutor, then both towers with captions, the tutor still there."""
    lay_out_positions(model.visual)
    tutor = Tutor(model.visual, model.text_projection.shape[1])

    def seeing() -> Tensor:
        _, images, codes, masks = lessons.look(settings.seeing_batch)
        return tutor(model.encode_image(images), codes, masks)

    def naming() -> Tensor:
        picked, images, codes, masks = lessons.look(settings.naming_batch)
        tokens, claims = lessons.tell(picked)
        raw = model.encode_image(images)
        image_vectors, text_vectors = (functional.normalize(v, dim=1) for v in (raw, encode_text(model, tokens)))
        cosines = image_vectors @ text_vectors.T
        return contrast(model.logit_scale.exp() * cosines, codes, claims) + 0.5 * tutor(raw, codes, masks)

    model.train()
    descend("seeing", seeing, nn.ModuleList([model.visual, tutor]), settings.seeing_steps, settings.rate)
    descend("naming", naming, nn.ModuleList([model, tutor]), settings.naming_steps, settings.rate)
    model.eval()


def descend(stage: str, lesson: Callable[[], Tensor], learners: nn.Module, steps: int, rate: float) -> None:
    """AdamW on the loss that every call of `lesson` returns: warm-up, then a cosine down to nothing."""
    optimizer = make_optimizer(learners, rate)
    warm = steps // 20
    started, losses = time.monotonic(), []
    for step in range(steps):
        wave = 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / (steps - warm)))
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / warm, wave)
        loss = lesson()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learners.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 200 == 0:
            mean, seconds = sum(losses[-200:]) / 200, time.monotonic() - started
            print(f"{stage}, step {step + 1:5d}: loss {mean:.4f}, {seconds:.0f} s", flush=True)


def write_model(model: nn.Module, path: Path) -> None:
    """Writes the weights as float16 under a temporary name and renames them."""
    weights = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise RuntimeError(f"not finite as float16: {', '.join(broken)}")
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(save(weights, metadata={"format": "pt"}))
    os.replace(temporary, path)


def main() -> None:
    """Draws, trains, writes, evaluates; prints how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=MODEL_DIR, help="directory with open_clip_config.json")
    defaults = Settings()
    for name in Settings.__slots__:
        default = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = parser.parse_args()
    settings = Settings(**{name: getattr(arguments, name) for name in Settings.__slots__})
    started = time.monotonic()
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
