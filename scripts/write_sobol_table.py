#!/usr/bin/env python
"""Write models/taste/sobol.npy: the direction numbers of Joe and Kuo (2008), as torch has them.

    .venv/bin/python scripts/write_sobol_table.py

The result must equal the committed file, so this is only needed to verify it.
"""

import numpy as np
from torch.quasirandom import SobolEngine

from penchant.models.taste.sobol import MAX_WIDTH, TABLE, pack_table


def main() -> None:
    """Write the table."""
    np.save(TABLE.resolve(), pack_table(SobolEngine(MAX_WIDTH).sobolstate.numpy()))


if __name__ == "__main__":
    main()
