"""A registered model behind `mlflow models serve`: videos in, class names and probabilities out."""
