#!/usr/bin/env python
"""Write models/taste/sobol.npy: the direction numbers of Joe and Kuo (2008), as torch has them.

    .venv/bin/python scripts/write_sobol_table.py

Run this only to verify the committed file, which it must reproduce.
"""

import numpy as np
from torch.quasirandom import SobolEngine

from penchant.models.taste.sobol import MAX_WIDTH, TABLE, pack_table


def main() -> None:
    """Write the table."""
    np.save(TABLE.resolve(), pack_table(SobolEngine(MAX_WIDTH).sobolstate.numpy()))


if __name__ == "__main__":
    main()
