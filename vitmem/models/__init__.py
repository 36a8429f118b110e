"""Vision transformers through timm: their options, their layers, their weights."""
