"""Reference networks and the training loop of the demo."""
