"""EVEREST's models: torch, timm and safetensors only. Importing registers the timm names (see `models.registry`)."""

from models.autoencoder import EverestAutoencoder, PretrainOutput
from models.classifier import EverestClassifier
from models.registry import SIZES, architecture

__all__ = ["SIZES", "EverestAutoencoder", "EverestClassifier", "PretrainOutput", "architecture"]
