"""A report as Markdown, LaTeX, HTML, CSV or JSON."""
