"""The dialects of ranking clients. Each file has the request, its task and its answer.

In reading order:

- `cohere`: Cohere, Jina and vLLM: rerank
- `tei`: text-embeddings-inference: rerank
- `vllm`: vLLM: score
- `best_of_n`: penchant's own best of n
"""
