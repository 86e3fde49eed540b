"""Which model serves, and how another takes its place.

In reading order:

- `loading`: bundles and encoders from disk
- `served_model`: everything that a bundle determines, as one value
- `stored_bundles`: bundles in the store
- `upgrading`: from one bundle to the next while answers keep coming
- `preparing`: every user learned for the next bundle
- `new_bundle`: a bundle fitted to what the store's users said
"""
