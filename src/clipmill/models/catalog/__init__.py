"""Model names: what a name means, and what is known of a model before it is loaded.

- `names`: `resolve_model(name)` gives a `ModelRef`, or an error with the nearest names
- `facts`: `facts_of(ref)`, what is known of a model without loading it
- `tables`: the architectures, weights and licences that ship with the package
- `backbones`: the text towers that open_clip borrows from Hugging Face
- `mclip`: the four models of Multilingual-CLIP and their text towers
- `hugging_face`: what a `CLIPModel`'s own files say of it
- `exported`: which model a directory of graphs holds; `manifest`: `clipmill.json` in it
- `fake_options`: what a `fake::` name says of its model
- `open_clip.json`: the table itself, written by `tools/make_catalog.py`
"""

from .facts import ModelFacts, facts_of
from .names import ModelRef, resolve_model

__all__ = ["ModelFacts", "ModelRef", "facts_of", "resolve_model"]
