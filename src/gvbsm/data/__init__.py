"""Real pictures: data sets, decoding, views, mixing, loading."""
