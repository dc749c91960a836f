"""Trains the `demo` model on pictures that are drawn for it.

    python examples/train_demo.py        # some 20 minutes on 2 cores; writes the weights, prints the figures

Colours and shapes of `HELD_OUT` never meet in training, neither on a picture nor in a caption.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from evaluate_demo import MODEL_DIR, print_figures
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from clipmill.encoders.demo.drawings import (
    COLOURS,
    GROUNDS,
    HELD_OUT,
    MAX_COUNT,
    POSITIONS,
    SHAPES,
    SIZES,
    Scene,
    clutter,
    describe,
    draw_with_mask,
    sample_scene,
)

CHUNK = 500
CLUTTER_SHARE = 0.04
CLUTTER_WORDS = ("a photograph", "a photo", "a blurry photo", "many colours", "something else", "no shape at all")
# The order of a scene's fields in a code; the last value of a field's list stands for "none of these".
FIELDS: dict[str, tuple[object, ...]] = {
    "shape": (*SHAPES, None),
    "colour": (*COLOURS, None),
    "size": (*SIZES, None),
    "count": (*range(1, MAX_COUNT + 1), None),
    "position": (*POSITIONS, None),
    "ground": (*GROUNDS, None),
}
NOT_TOLD = -1
CLUTTER_CODE = np.array([len(values) - 1 for values in FIELDS.values()], dtype=np.int8)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run depends on.

    Attributes:
        seed: Of everything random.
        pictures: How many are drawn before the training.
        steps: How many batches are trained on.
        batch: Pictures, and as many captions, per batch.
        rate: The highest learning rate.
        reading: Weight of `Tutor.read`'s loss beside the captions'.
        painting: Weight of `Tutor.paint`'s.
        workers: Processes that draw.
    """

    seed: int = 7
    pictures: int = 80_000
    steps: int = 3_000
    batch: int = 256
    rate: float = 2e-3
    reading: float = 4.0
    painting: float = 5.0
    workers: int = 2


def degrade(picture: Image.Image, rng: np.random.Generator, side: int) -> Image.Image:
    """What happens to pictures on their way: a JPEG in between, more often than not, then the model's size."""
    if rng.random() < 0.6:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(rng.integers(50, 96)))
        picture = Image.open(file)
    return picture.resize((side, side), Image.Resampling.BICUBIC)


def draw_chunk(job: tuple[int, int, int]) -> tuple[np.ndarray, list[Scene | None]]:
    """Draws `CHUNK` training pictures; which ones depends on seed and number of the chunk alone."""
    seed, number, side = job
    rng = np.random.default_rng([seed, number])
    pixels = np.zeros((CHUNK, 4, side, side), np.uint8)
    scenes: list[Scene | None] = []
    for i in range(CHUNK):
        drawn_side = int(rng.integers(side, 4 * side))
        if rng.random() < CLUTTER_SHARE:
            scenes.append(None)
            picture = clutter(rng, drawn_side)
        else:
            scene = sample_scene(rng, avoid=HELD_OUT)
            scenes.append(scene)
            picture, mask = draw_with_mask(scene, rng, drawn_side)
            pixels[i, 3] = np.asarray(mask.resize((side, side), Image.Resampling.BOX))
        pixels[i, :3] = np.asarray(degrade(picture, rng, side)).transpose(2, 0, 1)
    return pixels, scenes


def draw_pool(settings: Settings, side: int) -> tuple[np.ndarray, list[Scene | None]]:
    """All training pictures with their masks as fourth channel, (n, 4, side, side) uint8; scenes (None: clutter)."""
    jobs = [(settings.seed, number, side) for number in range(settings.pictures // CHUNK)]
    pixels = np.empty((len(jobs) * CHUNK, 4, side, side), np.uint8)
    scenes: list[Scene | None] = []
    with multiprocessing.get_context("spawn").Pool(settings.workers) as pool:
        for number, (some_pixels, some_scenes) in enumerate(pool.imap(draw_chunk, jobs)):
            pixels[number * CHUNK : (number + 1) * CHUNK] = some_pixels
            scenes += some_scenes
    return pixels, scenes


def encode_scene(scene: Scene | None) -> np.ndarray:
    """The scene as one small integer per field."""
    if scene is None:
        return CLUTTER_CODE
    return np.array([values.index(getattr(scene, field)) for field, values in FIELDS.items()], dtype=np.int8)


def write_caption(scene: Scene | None, code: np.ndarray, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A caption and its claim: the scene's code with `NOT_TOLD` in the fields that the caption leaves open."""
    if scene is None:
        return CLUTTER_WORDS[rng.integers(len(CLUTTER_WORDS))], np.where(np.arange(len(code)) < 2, code, NOT_TOLD)
    text, told = describe(scene, rng)
    return text, np.where([field in told for field in FIELDS], code, NOT_TOLD)


class WordTokens:
    """CLIP's tokens, word by word from a cache; cut to the longest caption, since a causal tower ignores the rest."""

    def __init__(self, tokenizer: open_clip.SimpleTokenizer) -> None:
        self._tokenizer = tokenizer
        self._words: dict[str, list[int]] = {}

    def __call__(self, captions: list[str], rng: np.random.Generator, strange: float = 0.0) -> Tensor:
        """Token ids, (n, longest).

        Args:
            captions: The texts.
            rng: Where chance comes from.
            strange: How many captions get a random token of the vocabulary somewhere, as a part of all. The model
                learns from them that a word which tells it nothing changes nothing.
        """
        rows = [self._encode(caption) for caption in captions]
        first_special = self._tokenizer.sot_token_id
        for row in rows:
            if rng.random() < strange:
                row.insert(int(rng.integers(1, len(row))), int(rng.integers(first_special)))
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        return tokens

    def _encode(self, caption: str) -> list[int]:
        ids = [self._tokenizer.sot_token_id]
        for word in caption.split():
            if word not in self._words:
                self._words[word] = self._tokenizer.encode(word)
            ids += self._words[word]
        return [*ids, self._tokenizer.eot_token_id]


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

    Captions alone teach colours at once and shapes late. So one linear layer per field reads the scene off the
    image vector, and another paints, patch by patch, where shapes lie off the tokens half way up the tower.
    """

    CELLS = 3  # of the painted mask, along a patch

    def __init__(self, visual: nn.Module, dim: int) -> None:
        super().__init__()
        self._patch = visual.patch_size[0]
        blocks = visual.transformer.resblocks
        self.heads = nn.ModuleList(nn.Linear(dim, len(values)) for values in FIELDS.values())
        self.painter = nn.Linear(visual.conv1.out_channels, self.CELLS**2)
        self._tokens: Tensor | None = None
        blocks[len(blocks) // 2 - 1].register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: object, tokens: Tensor) -> None:
        self._tokens = tokens

    def read(self, image_vectors: Tensor, codes: Tensor) -> Tensor:
        """Mean cross entropy over the fields of the scenes."""
        losses = [functional.cross_entropy(head(image_vectors), codes[:, i]) for i, head in enumerate(self.heads)]
        return torch.stack(losses).mean()

    def paint(self, masks: Tensor) -> Tensor:
        """Mean binary cross entropy over the cells of the masks, (n, 1, side, side) in 0 to 1."""
        assert self._tokens is not None, "the image tower comes first"
        cells = functional.avg_pool2d(masks, self._patch // self.CELLS)
        wanted = functional.unfold(cells, self.CELLS, stride=self.CELLS).transpose(1, 2)
        return functional.binary_cross_entropy_with_logits(self.painter(self._tokens[:, 1:]), wanted)


def make_optimizer(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """AdamW; weight decay only for matrices that every batch uses, so not for the token embedding."""
    decayed = {name for name, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in name}
    groups = [
        {"params": [p for name, p in model.named_parameters() if (name in decayed) is wanted], "weight_decay": decay}
        for wanted, decay in ((True, 0.05), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


class Batches:
    """Endless training batches out of the drawn pictures: (images, masks, tokens, codes, claims)."""

    def __init__(self, settings: Settings, preprocess: dict, words: WordTokens) -> None:
        self._settings, self._words = settings, words
        self._rng = np.random.default_rng([settings.seed, 1 << 20])
        self._side = preprocess["size"]
        self._pixels, self._scenes = draw_pool(settings, self._side)
        self._codes = np.stack([encode_scene(scene) for scene in self._scenes])
        self._mean = 255 * torch.tensor(preprocess["mean"]).view(3, 1, 1)
        self._std = 255 * torch.tensor(preprocess["std"]).view(3, 1, 1)

    def __iter__(self) -> Batches:
        """Itself: there is one stream."""
        return self

    def __next__(self) -> tuple[Tensor, ...]:
        """Another batch of lots."""
        picked = self._rng.integers(len(self._scenes), size=self._settings.batch)
        written = [write_caption(self._scenes[i], self._codes[i], self._rng) for i in picked]
        tokens = self._words([text for text, _ in written], self._rng, strange=0.15)
        claims = torch.from_numpy(np.stack([claim for _, claim in written]))
        return *self._augment(picked), tokens, torch.from_numpy(self._codes[picked]), claims

    def _augment(self, picked: np.ndarray) -> tuple[Tensor, Tensor]:
        """Pictures and masks, shifted by up to 3 pixels; the pictures' brightness and tint changed by a little."""
        pixels = torch.from_numpy(self._pixels[picked]).float()
        pixels = functional.pad(pixels, (3, 3, 3, 3), mode="replicate")
        shifts = self._rng.integers(0, 7, (len(pixels), 2))
        side = self._side
        pixels = torch.stack([p[:, y : y + side, x : x + side] for p, (y, x) in zip(pixels, shifts, strict=True)])
        gains = torch.from_numpy(self._rng.normal(1, 0.04, (len(pixels), 3, 1, 1)).astype(np.float32))
        return ((pixels[:, :3] * gains).clamp(0, 255) - self._mean) / self._std, pixels[:, 3:] / 255


def train(model: nn.Module, batches: Batches, settings: Settings) -> None:
    """Trains in place: warm-up, then a cosine down to nothing."""
    tutor = Tutor(model.visual, model.text_projection.shape[1])
    optimizer = make_optimizer(nn.ModuleList([model, tutor]), settings.rate)
    warm = settings.steps // 20
    model.train()
    started, losses = time.monotonic(), []
    for step, (images, masks, tokens, codes, claims) in zip(range(settings.steps), batches, strict=False):
        wave = 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / (settings.steps - warm)))
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * min((step + 1) / warm, wave)
        raw_vectors = model.encode_image(images)
        image_vectors = functional.normalize(raw_vectors, dim=1)
        text_vectors = functional.normalize(encode_text(model, tokens), dim=1)
        loss = contrast(model.logit_scale.exp() * image_vectors @ text_vectors.T, codes, claims)
        loss = loss + settings.reading * tutor.read(raw_vectors, codes.long()) + settings.painting * tutor.paint(masks)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(loss.item()); L=(step%50==49) and print(step, *[round(float(x),3) for x in (contrast(model.logit_scale.exp() * image_vectors @ text_vectors.T, codes, claims), tutor.read(raw_vectors, codes.long()), tutor.paint(masks), functional.cross_entropy(tutor.heads[0](raw_vectors), codes[:,0].long()))])
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - started
            mean = sum(losses[-100:]) / 100
            print(
                f"step {step + 1:5d}  loss {mean:.4f}  scale {model.logit_scale.exp():.1f}  {seconds:.0f} s", flush=True
            )
    model.eval()


def write_model(model: nn.Module, path: Path) -> None:
    """Writes the weights as float16 under a temporary name and renames them."""
    weights = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise RuntimeError(f"not finite as float16: {', '.join(broken)}")
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(weights, temporary, metadata={"format": "pt"})
    os.replace(temporary, path)


def main() -> None:
    """Draws, trains, writes, evaluates; prints how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=MODEL_DIR, help="directory with open_clip_config.json")
    defaults = Settings()
    for name in Settings.__slots__:
        default = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = parser.parse_args()
    settings = Settings(**{name: getattr(arguments, name) for name in Settings.__slots__})
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    config = json.loads((arguments.output / "open_clip_config.json").read_text())
    model = open_clip.CLIP(**config["model_cfg"])
    preprocess = {**config["preprocess_cfg"], "size": config["model_cfg"]["vision_cfg"]["image_size"]}
    batches = Batches(settings, preprocess, WordTokens(open_clip.SimpleTokenizer()))
    print(f"{settings.pictures} pictures drawn after {time.monotonic() - started:.0f} s", flush=True)
    train(model, batches, settings)
    write_model(model, arguments.output / "open_clip_model.safetensors")
    print(f"trained and written after {time.monotonic() - started:.0f} s", flush=True)
    print_figures(arguments.output)
    print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
