"""The languages of ranking clients, one file each: request, task, answer.

In reading order:

- `cohere`: Cohere, Jina and vLLM: rerank
- `tei`: text-embeddings-inference: rerank
- `vllm`: vLLM: score
- `best_of_n`: our own: best of n
"""
