"""Several machines, each with some ranks of one model: node 0 leads (leader.py), the others follow (follower.py).

A follower keeps one connection to the leader (link.py), over which it is told when to start and end its ranks, and
says when one of them ends. When the connection breaks, both sides end their ranks: the leader starts all anew as soon
as every node is back. Plans and tensors have connections of their own, from rank to rank.
"""
