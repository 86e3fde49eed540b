"""Bundles of the service: which one ranks, and how another one takes its place.

In reading order:

- `loading`: loading bundles and encoders from disk
- `signal`: the signal `relevance` that the settings declare
- `served_model`: everything that depends on a bundle, as one value
- `stored_bundles`: bundles in the store
- `upgrading`: switching from one bundle to the next under load
- `preparing`: learning every user for the next bundle
- `new_bundle`: fitting a bundle to the store's feedback
"""
