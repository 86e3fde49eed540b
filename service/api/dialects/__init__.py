"""The languages of ranking clients, one file each: request, task, answer.

In reading order:

- `shared`: limits and fields that all of them have
- `cohere`: Cohere, Jina and vLLM: rerank
- `tei`: text-embeddings-inference: rerank
- `vllm`: vLLM: score
- `best_of_n`: our own: best of n
"""
