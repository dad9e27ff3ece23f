from __future__ import annotations

import os

# Before torch is imported: tests never reach for the network, and tiny models gain nothing from many threads.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

settings.register_profile("siftune", deadline=None, derandomize=True)
settings.load_profile("siftune")
