"""The small CLIP model inside the package, and generator of the images that it was trained on.

- `open_clip_config.json`, `open_clip_model.safetensors`: the model, as in any model directory of open_clip
- `drawings`: draws images of coloured shapes, and writes English captions for them

`examples/train_demo.py` trained the weights; `docs/demo.md` has the figures.
"""
