"""Mathematics of personal preference: tensors in, tensors out."""
