"""Files that other programs have downloaded, which are used in place.

OpenAI's `clip`, open_clip and clip-as-service keep weights in `~/.cache/clip`; Jina's AudioCLIP executors kept theirs
in `.cache` of the directory that they ran in.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ..weight_files import digest_of

_log = logging.getLogger("clipmill")

CLIP_AS_SERVICE = {
    ("RN50", "yfcc15m"): ("RN50-yfcc15m.pt", "e9c564f91ae7dc754d9043fdcd2a9f22"),
    ("RN50", "cc12m"): ("RN50-cc12m.pt", "37cb01eb52bb6efe7666b1ff2d7311b5"),
    ("RN101", "yfcc15m"): ("RN101-yfcc15m.pt", "48f7448879ce25e355804f6bb7928cb8"),
    ("ViT-B-32", "laion2b_e16"): ("ViT-B-32-laion2b_e16.pt", "df08de3d9f2dc53c71ea26e184633902"),
    ("ViT-B-32", "laion400m_e31"): ("ViT-B-32-laion400m_e31.pt", "ca8015f98ab0f8780510710681d7b73e"),
    ("ViT-B-32", "laion400m_e32"): ("ViT-B-32-laion400m_e32.pt", "359e0dba4a419f175599ee0c63a110d8"),
    ("ViT-B-32", "laion2b_s34b_b79k"): ("ViT-B-32-laion2b-s34b-b79k.bin", "2fc036aea9cd7306f5ce7ce6abb8d0bf"),
    ("ViT-B-16", "laion400m_e31"): ("ViT-B-16-laion400m_e31.pt", "31306a44224cc46fec1bc3b82fd0c4e6"),
    ("ViT-B-16", "laion400m_e32"): ("ViT-B-16-laion400m_e32.pt", "07283adc5c17899f2ed22d82b563c54b"),
    ("ViT-B-16-plus-240", "laion400m_e31"): ("ViT-B-16-plus-240-laion400m_e31.pt", "c88f453644a998ecb094d878a2f0738d"),
    ("ViT-B-16-plus-240", "laion400m_e32"): ("ViT-B-16-plus-240-laion400m_e32.pt", "e573af3cef888441241e35022f30cc95"),
    ("ViT-L-14", "laion400m_e31"): ("ViT-L-14-laion400m_e31.pt", "09d223a6d41d2c5c201a9da618d833aa"),
    ("ViT-L-14", "laion400m_e32"): ("ViT-L-14-laion400m_e32.pt", "a76cde1bc744ca38c6036b920c847a89"),
    ("ViT-L-14", "laion2b_s32b_b82k"): ("ViT-L-14-laion2b-s32b-b82k.bin", "4d2275fc7b2d7ee9db174f9b57ddecbd"),
    ("ViT-H-14", "laion2b_s32b_b79k"): ("ViT-H-14-laion2b-s32b-b79k.bin", "2aa6c46521b165a0daeb8cdc6668c7d3"),
    ("ViT-g-14", "laion2b_s12b_b42k"): ("ViT-g-14-laion2b-s12b-b42k.bin", "3bf99353f6f1829faac0bb155be4382a"),
    ("roberta-ViT-B-32", "laion2b_s12b_b32k"): (
        "roberta-ViT-B-32-laion2b-s12b-b32k.bin",
        "76d4c9d13774cc15fa0e2b1b94a8402c",
    ),
    ("xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k"): (
        "xlm-roberta-base-ViT-B-32-laion5b-s13b-b90k.bin",
        "f68abc07ef349720f1f880180803142d",
    ),
    ("xlm-roberta-large-ViT-H-14", "frozen_laion5b_s13b_b90k"): (
        "xlm-roberta-large-ViT-H-14-frozen_laion5b_s13b_b90k.bin",
        "b49991239a419d704fdba59c42d5536d",
    ),
}
"""By (architecture, tag): the file's name in clip-as-service, and its MD5, the only hash that it publishes.

OpenAI's weights are left out, since clip-as-service keeps them under OpenAI's names.
"""


def places_of(filename: str) -> list[Path]:
    """Return the paths at which other programs keep a file of this name."""
    places = [clip_folder() / filename]
    if filename.startswith("AudioCLIP-") and filename.endswith(".pt"):
        places.append(Path(".cache", filename).absolute())
    return places


def clip_folder() -> Path:
    """Return the folder of OpenAI's `clip`, open_clip and clip-as-service."""
    return Path("~/.cache/clip").expanduser()


def clip_as_service_copy(architecture: str, tag: str) -> Path | None:
    """Return clip-as-service's copy of published weights; None if there is none or its hash is wrong."""
    name, md5 = CLIP_AS_SERVICE.get((architecture, tag), ("", ""))
    path = clip_folder() / name
    if not name or not path.is_file():
        return None
    if digest_of(path, "md5") == md5:
        return path
    _log.warning("%s is not used: its MD5 is not %s", path, md5)
    return None
