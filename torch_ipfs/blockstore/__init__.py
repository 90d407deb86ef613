"""Stores of blocks: a CID goes in, verified bytes come out."""
