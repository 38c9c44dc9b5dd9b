"""Archives from the network, unpacked without trusting them."""
