"""HTTP: routes, uploads, metrics and the browser page."""
