"""The small CLIP model inside the package.

`open_clip_config.json` and `open_clip_model.safetensors` are the model, as in any model directory of open_clip.
`examples/train_demo.py` trained the weights; `docs/demo.md` has the figures.
"""
