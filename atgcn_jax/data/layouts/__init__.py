"""The layouts in which sound and labels are found, each listed as the same plain data."""
