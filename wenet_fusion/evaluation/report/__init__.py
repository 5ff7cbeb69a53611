"""Error rates as a page of HTML or Markdown."""
