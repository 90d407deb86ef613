"""Datasets for other frameworks. A bridge knows iterables of numpy batches and a schema, and nothing above."""
