"""Fills an index: a dataset TOML becomes records, records become points."""
