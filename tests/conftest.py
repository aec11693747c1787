"""Settings of the whole test run."""

from __future__ import annotations

import torch

# The models of the tests are too small to share among cores: on a busy machine, threads that wait
# for each other make them many times slower.
torch.set_num_threads(1)
