"""Random changes to waveforms and features."""
