"""Fine-tuning of a part of a classifier: what learns, low-rank adapters, and what a training step then costs."""
