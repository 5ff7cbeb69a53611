"""Data lists: reading them, and what a training state keeps of them."""
