"""Peers, re-implemented from their published descriptions and tuned on training users alone.

Every peer gets the same features as penchant (frozen embedding and attributes, standardised on the training texts) and
learns from comparisons. Ratings become pairs of one user's unequal ratings in one context, limited per user.

In reading order:

- `comparisons`: judgements as index arrays
- `tuning`: settings, training length and temperature, chosen on held-out training users
- `simplex`: training of a new user's weights on a simplex
- `bradley_terry`: consensus, one utility for all users
- `lore`: LoRe, softmax weights over basis rewards
- `pal`: PAL-A, ideal points among prototypes
- `hebbian`: w += η Σ(φ⁺ − φ⁻)
"""
