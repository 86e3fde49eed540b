"""The command line, `penchant`.

In reading order:

- `main`: the entry point, which reports in one line what could not be done
- `refusals`: the reason of a failure, as one line
- `app`: the commands
- `models`: fit and evaluate
- `bundle`: bundle show and bundle export
- `learning`: export, fit and replay from a store
- `upgrade`: upgrade and rollback
- `store`: doctor, backup and restore
- `keys`: keys and tenants
- `demo`: the tour
- `inputs`: judgements, texts, bundles and encoders as inputs
- `store_access`: settings and the store
- `tables`: tables that describe a bundle
- `terminal`: results, progress and problems
"""
