#!/usr/bin/env python
"""Writes models/taste/sobol.npy: the direction numbers of Joe and Kuo (2008), as torch has them.

    .venv/bin/python scripts/write_sobol_table.py

Only somebody who doubts the file has to run this: it must come out as it is committed.
"""

import numpy as np
from torch.quasirandom import SobolEngine

from penchant.models.taste.sobol import MAX_WIDTH, TABLE, pack_table


def main() -> None:
    """Writes the table."""
    np.save(TABLE.resolve(), pack_table(SobolEngine(MAX_WIDTH).sobolstate.numpy()))


if __name__ == "__main__":
    main()
