"""One forward pass over rows, many readings of it: hidden states, losses, activations."""
