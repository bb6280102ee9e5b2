"""From documents and conversations to packed blocks of tokens."""
