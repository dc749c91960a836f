"""Models: what their names mean, where their files are, and what executes them.

- `spec`: `EncoderSpec`, the frozen description that travels to workers
- `support_matrix`: which runtime computes in which precision on which device
- `catalog`: model names; `downloads`: weights and other files from elsewhere
- `frontend`, `tokenizers`: what happens to a value before a network sees it
- `model`: what every loaded model offers; `towers`: the networks; `runtimes`: what executes them
- `source`: what `towers` find of one model; `weight_files`: their kinds and hashes
- `exporting`: models as graphs in a directory
- `demo`: the small model inside the package; `fake`: one that is computable in the head, for tests
"""
