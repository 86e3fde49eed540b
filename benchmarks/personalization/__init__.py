"""Does it know the user? Few-shot learning curves of every set and split, ours and the peers'.

    python -m benchmarks.personalization --data FOLDER

A *cell* is one (part, set, split, repetition, system). Its result is a small file in the cache folder, written as soon
as it is there, under a key that names the code, the options and the data: an interrupted run resumes, and whatever
changed is computed again.

    data        sets and their hashes
    features    encoded once
    task        one repetition of a split as every system gets it
    systems     name → predictions; ours here, the peers in `benchmarks.peers`
    cells       keys, files, and the processes that fill them
    metrics     user-mean accuracy, log-loss, two-way bootstrap, harm
    report      JSON, Markdown and pictures
"""
