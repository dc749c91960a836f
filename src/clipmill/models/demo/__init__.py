"""The small CLIP that lives inside the package.

`open_clip_config.json` and `open_clip_model.safetensors` lie here as in any model directory of open_clip. It knows the
pictures of coloured shapes that `pipelines.drawings` draws. `examples/train_demo.py` made the weights; `docs/demo.md`
has the figures.
"""
