"""Audio containers: detect their contents and choose a decoder."""
