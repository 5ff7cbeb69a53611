"""Searches, which turn scores of encoder frames into hypotheses. `modes.py` lists them."""
