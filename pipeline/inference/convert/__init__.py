"""`everest convert-checkpoint`: between official files, this project's folders and Hugging Face's."""

from pipeline.inference.convert.conversion import convert

__all__ = ["convert"]
