"""Several runs of the chain: compared, repeated, reproduced, traced."""
