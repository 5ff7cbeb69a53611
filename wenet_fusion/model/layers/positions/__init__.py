"""Positions of frames for attention: a learned bias per distance, or sinusoids."""
