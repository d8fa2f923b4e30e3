"""Settings that every test shares."""

from __future__ import annotations

import torch

# Small tensors gain nothing from a second thread, and threads that wait for each other on a busy
# machine make a test ten times slower.
torch.set_num_threads(1)
