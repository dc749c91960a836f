"""Models: their names, their files, and the runtimes that execute them.

- `spec`: `EncoderSpec`, the frozen description that is sent to workers; `spec_help`: what its fields are, in words;
  `support_matrix`: which runtime supports which precision on which device
- `catalog`: model names; `downloads`: downloads of weights and other files; `progress`: reports how far they are, and
  what else the first use of a model takes
- `frontend`, `tokenizers`: how values are prepared for a network
- `model`: the interface of loaded models; `towers`: the networks; `runtimes`: the backends that execute them
- `encoder_process`: one process for each model and host, which executes it for all workers
- `dimensions`: whether vectors may be cut to their leading values
- `linear_head`: a weight and a bias that turn a vector into scores, and reading them
- `source`: the files and settings of one model, as `towers` finds them; `weight_files`: their formats and hashes
- `installed`: versions of installed packages
- `exporting`: exports models as graphs in a directory; `calibration`: int8 graphs, calibrated on values of the user's
- `demo`: the small model inside the package; `fake`: a fake model for tests, with vectors that are easy to predict
"""
