"""The recovery matrix: its design, its trials, the peers beside it, and what is made of them."""
