"""How pods are replaced: which template they are made from (pinning.py), when secrets that changed replace them
(rotation.py), and which of them may go when (pace.py). steering.py puts it together; called by reconcile.py."""
