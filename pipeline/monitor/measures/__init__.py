"""Numbers of a look, each a pure function of clips, weights or features."""
