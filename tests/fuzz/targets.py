"""All targets of fuzzing, by name. Nothing here needs the fuzzer: tests run the same targets."""

from __future__ import annotations

import dataset_targets
import media_targets
import name_targets
import record_targets

TARGETS = {
    **media_targets.TARGETS,
    **record_targets.TARGETS,
    **dataset_targets.TARGETS,
    **name_targets.TARGETS,
}
