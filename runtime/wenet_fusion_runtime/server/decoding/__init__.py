"""Decodes uploads in processes of their own."""
