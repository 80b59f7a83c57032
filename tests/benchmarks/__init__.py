"""What benchmarks are made of, tested without a browser."""
