"""What an operator asks of this machine: the queue and its holders, what can go, copies of what cannot be had again."""
