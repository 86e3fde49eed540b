"""The asynchronous half of the SDK. `scripts/unasync.py` generates the synchronous half from it.

In reading order:

- `client`: the client, with one method for each ranking endpoint.
- `feedback`: the methods that send feedback.
- `users`: the methods that read and delete the data of a user.
- `pages`: pages of a long list.
- `base`: configuration and connections.
- `transport`: requests and retries.
- `langchain`: the call of the LangChain adapter.
"""
