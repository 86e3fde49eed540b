"""What users said about texts.

In reading order:

- `judgement`: one judgement of one user
- `lines`: one line of a judgement file, parsed and checked
- `files`: a whole file of them
- `edits`: how much an edit says
"""
