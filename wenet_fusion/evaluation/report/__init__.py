"""Error rates as a page of HTML or Markdown that people read."""
