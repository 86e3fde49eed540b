"""The command line, `penchant`.

In reading order:

- `main`: the way in, which names what is missing where the extra is not installed
- `app`: the commands
- `models`: fit and evaluate
- `bundle`: bundle show and export
- `learning`: export, fit and replay from a store
- `upgrade`: upgrade and rollback
- `store`: doctor, backup and restore
- `keys`: keys and tenants
- `demo`: the tour
- `inputs`: what commands are given
- `store_access`: settings and the store as commands open them
- `tables`: a bundle on the terminal
- `terminal`: results, progress and problems
"""
