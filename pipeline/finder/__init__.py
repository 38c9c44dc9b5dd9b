"""`everest lr`: the loss of a short training over a sweep of learning rates, and the rate that it suggests."""
