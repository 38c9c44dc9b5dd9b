"""What the groups of params.yaml are made of."""
