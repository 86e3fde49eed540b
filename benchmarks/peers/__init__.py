"""Peers, re-implemented from their published description and tuned on train users alone.

Every peer sees the features that ours sees (frozen embedding and attributes, standardised on the train texts) and learns
from comparisons; ratings become the pairs of one user's unequal ratings in one context, capped by user.

    comparisons     judgements → index arrays
    tuning          settings, training length and temperature by held-out train users
    bradley_terry   consensus: one utility for all
    lore            LoRe: softmax weights over basis rewards
    pal             PAL-A: ideal points among prototypes
    hebbian         w += η Σ(φ⁺ − φ⁻)
"""
