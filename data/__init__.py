"""What is at rest: the record's schema, the run store, data sets, published numbers."""
