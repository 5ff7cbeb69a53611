"""Audio files: what is in them, and who decodes it."""
