"""What a pre-training is worth, while it runs."""
