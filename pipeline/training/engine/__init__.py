"""The training engine: one loop for pre-training, fine-tuning and probing, on one process or many."""

from pipeline.training.engine.loop import Engine
from pipeline.training.engine.refusal import NonFinite

__all__ = ["Engine", "NonFinite"]
