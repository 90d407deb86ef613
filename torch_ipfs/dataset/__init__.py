"""Datasets as torch takes them."""
