"""Language models that answer prompts: a table of prompts in, one answer for each out.

protocol              what that means, whoever answers; price: what it costs
model                 a model as jobs name it: behind an endpoint, or on the cluster
endpoint, http        any OpenAI-compatible endpoint: pacing (limits), replies (failures),
                      journal (answers on disk as they come)
vllm                  vLLM on Ray Data, also for the micro-world: tokens, memory, ray_pass,
                      attempts (what is on disk), environment
scripted, misbehave   a server that answers from rules, and one that does not behave
"""
