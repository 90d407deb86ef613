"""Dataset roots, their shards and their schema: blocks in, columns out, and back."""
