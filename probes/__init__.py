"""What touches a live torch model: adapters, capture, accumulators, the recorder."""
