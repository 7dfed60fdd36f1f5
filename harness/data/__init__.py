"""Images in: phantoms, folders -> manifest, decoding, the one preprocessing, evaluation sets."""
