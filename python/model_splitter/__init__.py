"""Cuts a GGUF model into the partition files of docs/model_format.md."""
