"""SLURM: a training's ranks as a batch job that its stage submits, follows, stops and finds again."""
