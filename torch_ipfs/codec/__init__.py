"""Bytes to values and back: CIDs, the IPLD codecs and CAR files. Nothing here does I/O of its own."""
