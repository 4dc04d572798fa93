"""Settings as published, which the parts of the benchmark share."""

from remi_fast.config import LossConfig, ModelConfig, TrainConfig

HISTORY = ModelConfig().max_history  # items, L
MIN_HISTORY = TrainConfig().min_history  # items before a target
# Drawn for each sample of a batch, and shared by the batch.
NEGATIVES = LossConfig().num_negatives // TrainConfig().batch_size
