"""The wire: HTTP requests and answers.

In reading order:

- `middleware`: the outermost layer of every request
- `routing`: routes, and what each one declares
- `context`: who calls, for whom, and the parts of the server
- `body`: reading a body, bounded in bytes and time
- `streaming`: answers that are sent piece by piece
- `dialects`: the languages of ranking clients: a new one is one file here and a route
- `routes`: the endpoints
- `answers`: models of the answers
- `openapi`: the document
"""
