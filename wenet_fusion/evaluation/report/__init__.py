"""Reports of error rates as HTML or Markdown."""
