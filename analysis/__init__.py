"""What is true: pure mathematics on arrays and recorded runs."""
