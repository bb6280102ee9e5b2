"""The micro-world: a closed world in simple English, where the method's effect can be measured."""
