"""Hierarchies: several resolutions (VQ-VAE-2), and stacks of which only the top codes are kept (HQA)."""

EMA = {"type": "vq", "size": 12}
CONFIGS = {
    "hierarchy": {"type": "hierarchy", "cells": [1, 3], "inner": [EMA, EMA]},
    "hierarchy_three": {"type": "hierarchy", "cells": [1, 2, 6], "inner": [EMA, {**EMA, "size": 8}, EMA]},
    "hierarchy_learned": {
        "type": "hierarchy",
        "cells": [1, 2],
        "inner": [{**EMA, "codebook": "learned", "width": 4}, {**EMA, "codebook": "learned"}],
    },
    "hierarchy_lfq": {
        "type": "hierarchy",
        "cells": [1, 2],
        "inner": [{"type": "lfq", "bits": 4}, {"type": "lfq", "bits": 3}],
    },
    "hqa": {"type": "hqa", "cells": [2, 1], "size": 12, "hidden": 16},
    "hqa_two_codes": {"type": "hqa", "cells": [3, 2], "size": 12, "hidden": 16, "temperature": 0.05},
}
OWN_GRADIENT = {"hqa", "hqa_two_codes"}
SOFT = {"hqa", "hqa_two_codes"}
