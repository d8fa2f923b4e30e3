"""Training runs with one planted fault each, and healthy ones: what the findings are judged by."""
