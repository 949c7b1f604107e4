"""Reports of results: HTML pages, plots, tables and data cards."""
