"""Pure: tensors, tables, texts and plain numbers in and out; no config, path or model."""
