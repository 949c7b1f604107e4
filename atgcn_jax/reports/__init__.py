"""Results as pages, pictures, tables and cards."""
