"""Clip store: file format, writer and reader."""
