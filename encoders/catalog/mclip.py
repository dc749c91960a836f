"""The four models of Multilingual-CLIP: which text tower was taught to meet which image tower.

Facts from the models' repositories and cards (`huggingface.co/M-CLIP`). The paper is Carlsson et al., "Cross-lingual
and Multilingual CLIP" (LREC 2022).
"""

from __future__ import annotations

import dataclasses

MAX_TEXT_TOKENS = 77
"""Where texts are cut unless the spec says otherwise, as clip-as-service does; the text towers read up to 512."""


@dataclasses.dataclass(frozen=True, slots=True)
class MClipModel:
    """One model.

    Attributes:
        dim: Values in a vector.
        base: The text tower's architecture: `xlm-roberta-large` or `labse`.
        image_architecture: open_clip's name of the image tower.
        image_tag: open_clip's tag of its weights.
    """

    dim: int
    base: str
    image_architecture: str
    image_tag: str


MODELS = {
    "M-CLIP/XLM-Roberta-Large-Vit-B-32": MClipModel(512, "xlm-roberta-large", "ViT-B-32", "openai"),
    "M-CLIP/XLM-Roberta-Large-Vit-L-14": MClipModel(768, "xlm-roberta-large", "ViT-L-14", "openai"),
    "M-CLIP/XLM-Roberta-Large-Vit-B-16Plus": MClipModel(640, "xlm-roberta-large", "ViT-B-16-plus-240", "laion400m_e32"),
    "M-CLIP/LABSE-Vit-L-14": MClipModel(768, "labse", "ViT-L-14", "openai"),
}
