"""Datasets, on the Hub or in folders → 16 kHz mono float32 clips with their texts."""
