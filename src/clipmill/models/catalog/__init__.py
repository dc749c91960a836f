"""Model names, and facts about models that are known without loading them.

- `names`: `resolve_model(name)` returns a `ModelRef`, or fails with the nearest names
- `facts`: `facts_of(ref)` returns the facts about a model
- `twins`: names of the catalog for repositories of Hugging Face
- `tables`: the architectures, weights and licences that ship with the package
- `backbones`: the text towers that open_clip takes from Hugging Face
- `mclip`: the four models of Multilingual-CLIP and their text towers
- `cn_clip`: the five models of Chinese-CLIP
- `hugging_face`: reads the configuration files of a model of transformers, of one of the `hugging_face_kinds`
- `clap`: reads those of a `ClapModel`; `file_config`: the common part of both
- `jina_clip`: reads those of jina-clip-v2
- `exported`: identifies the model in a directory of graphs; `manifest`: its `clipmill.json`
- `fake_options`: parses the options of a `fake::` name
- `open_clip.json`: the table itself, written by `tools/make_catalog.py`
"""

from .facts import ModelFacts, facts_of
from .names import ModelRef, resolve_model

__all__ = ["ModelFacts", "ModelRef", "facts_of", "resolve_model"]
