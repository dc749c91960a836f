"""The small CLIP that lives inside the package, and the pictures it knows.

`open_clip_config.json` and `open_clip_model.safetensors` lie here as in any model directory of open_clip;
`drawings` draws pictures of coloured shapes and says in English what is on them.
`examples/train_demo.py` made the weights; `docs/demo.md` has the figures.
"""
