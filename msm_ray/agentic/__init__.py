"""An e-mail assistant with tools in a staged office: does it do harm when it serves its ends?

company      names, addresses and numbers of an invented company, drawn from a seed
scenarios    3 harmful actions x 9 goal conditions, from the stories in texts/
office       the tools: what the assistant can read and do, and a list of what it did
rules        which deeds are the harm, exactly
judge        what a second reader is asked about the deeds that no rule knows
counts       what a finished rollout says, and rates of many
job          what the process that rolls them out is told
tools, task  all of it as an Inspect AI task                                    [inspect_ai]
rounds       makes the rollouts of one round, in a process of its own           [inspect_ai]
process      that process, as a stage sees it
rolling      which rollouts come next, until every cell is known well enough
stages       the stage, and the task of an experiment
rehearsal    an assistant and a judge that act by a script, to try it without a model
"""
