"""What users stated about texts.

In reading order:

- `kinds`: the table of the kinds of judgement, which every other module reads
- `base`: what every kind has, and what a judgement states
- `judgement`: one judgement of one user
- `files`: judgement files
- `lines`: one line of a judgement file, read key by key
"""
